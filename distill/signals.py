"""Being told to stop: SIGINT, SIGTERM and SIGUSR1 end a run between two steps, after a checkpoint."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

NUMBERS = [int(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
ECHO_SECONDS = 1.0  # launchers pass a Ctrl-C on that the terminal has already sent to every process
LOADER_SECONDS = 60


class Interrupted(KeyboardInterrupt):
    """A signal ended the run. KeyboardInterrupt, so that nothing takes it for a failure of what it was doing."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number, self.text = number, text

    @property
    def code(self) -> int:
        """The exit code, as shells count it: 130 for SIGINT, 143 for SIGTERM, 138 for SIGUSR1."""
        return 128 + self.number


class Signals:
    """While entered, turns the first signal into Interrupted: at once, or when `deferred` ends.

    A second Ctrl-C, more than a second after the first, stops at once in any case. goes_on: the run keeps checkpoints,
    from which the same command goes on, and that is said.
    """

    def __init__(self, *, goes_on: bool = True) -> None:
        self.received, self._goes_on = 0, goes_on
        self._process, self._deferring, self._at = os.getpid(), False, 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python gives signals to no other
            for number in NUMBERS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the block see `received` and end in its own time."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self.received:
            raise self._at_once(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a loader process that has only just been copied from this one
        now = time.monotonic()
        if not self.received:
            self.received, self._at = number, now
            if self._deferring:
                return
        elif number != signal.SIGINT or now - self._at < ECHO_SECONDS:
            return
        raise self._at_once(number)

    def _at_once(self, number: int) -> Interrupted:
        way_on = "; the same command goes on from the last checkpoint, or from the start" if self._goes_on else ""
        return Interrupted(number, f"{signal.Signals(number).name}{way_on}")


def stopped(number: int, done: int, steps: int) -> Interrupted:
    """That the run ended after a step whose checkpoint is written."""
    name = signal.Signals(number).name
    return Interrupted(number, f"{name} after step {done} of {steps}, which is saved; the same command goes on")


def spare_loader(worker: int) -> None:
    """Let the process that trains decide when a loader process ends, though a cluster signals all of them.

    One that nobody ends does so by itself a minute later. One whose trainer was killed has nothing to say about it.
    """
    sys.excepthook = _ignore_lost_trainer
    for number in NUMBERS if hasattr(signal, "alarm") else ():
        signal.signal(number, _end_later if number == signal.SIGTERM else signal.SIG_IGN)


def _ignore_lost_trainer(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    # A batch that was being fetched leaves a broken connection; an error of the loader itself does not come by here.
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def _end_later(number: int, frame: FrameType | None) -> None:
    signal.alarm(LOADER_SECONDS)
