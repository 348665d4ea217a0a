"""A run in a process of its own, watched from outside: the memory it takes in each stage, told by what it prints."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

EVERY_SECONDS = 0.01
LOADERS_EVERY = 50  # samples of the run itself; those of its loaders cost the system milliseconds each

STAGES = (
    ("imports, data, plan", r""),  # the summary is the first thing that a run prints
    ("head of the teacher", r"head of .* (fitted|taken from the cache): "),
    ("teacher ready", r"teacher (runs on|speaks from) "),
    ("training, checkpoints, validation", r"epoch (\d+) of \1: "),
    ("export, first pass of the comparison", r"compare: "),
    ("layers compared, report", r"took "),
)
"""Each with the beginning of the line that ends it, so it begins with what the one before has left.

One whose line never comes is left out.
"""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The most within one stage, in bytes.

    private: anonymous memory of the run's main process, which no other program can use. loaders: memory that its
    other processes have for themselves alone, all of them together.
    """

    name: str
    private: int
    loaders: int


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A run that has ended. resident: the most of its main process at once, libraries that it shares included."""

    stages: tuple[Stage, ...]
    resident: int

    @property
    def private(self) -> int:
        return max(stage.private for stage in self.stages)


@dataclass
class _Sampled:
    """What one thread sees and the other takes note of."""

    private: int = 0
    loaders: int = 0
    resident: int = 0
    over: threading.Event = field(default_factory=threading.Event)


def watch(command: Sequence[str], environment: Mapping[str, str]) -> Watched:
    """Carry out a run's command and see what it takes. ValueError with its last line if it fails."""
    run = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment, "PYTHONUNBUFFERED": "1"},
    )
    assert run.stdout is not None
    left, stages, last = list(STAGES), [], ""
    with _sampled(run.pid) as seen:
        for line in run.stdout:
            last = line.strip() or last
            ended = next((at for at, (_, ends) in enumerate(left) if re.match(ends, line)), None)
            if ended is not None:
                stages.append(Stage(name=left[ended][0], private=seen.private, loaders=seen.loaders))
                del left[: ended + 1]
                seen.private = seen.loaders = 0
    if run.wait():
        raise ValueError(f"the run ended with exit code {run.returncode}: {last}")
    if not stages:
        raise ValueError(f"the run printed no line that ends a stage, last: {last}")
    return Watched(stages=tuple(stages), resident=seen.resident)


@contextmanager
def _sampled(process: int) -> Iterator[_Sampled]:
    seen = _Sampled()

    def sample() -> None:
        count = 0
        while not seen.over.wait(EVERY_SECONDS):
            with suppress(OSError, KeyError):  # it is ending
                figures = status(process)
                seen.private = max(seen.private, figures["RssAnon"])
                seen.resident = max(seen.resident, figures["VmHWM"])
            if count % LOADERS_EVERY == 0:
                seen.loaders = max(seen.loaders, _own_of_children(process))
            count += 1

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        seen.over.set()
        thread.join()


def status(process: int | str) -> dict[str, int]:
    """The amounts in /proc/PID/status, in bytes."""
    rows = (line.split() for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return {row[0].rstrip(":"): 1024 * int(row[1]) for row in rows if row[-1] == "kB"}


def _own_of_children(process: int) -> int:
    total = 0
    with suppress(psutil.Error):
        for child in psutil.Process(process).children(recursive=True):
            with suppress(psutil.Error):
                total += child.memory_full_info().uss
    return total
