"""The sizes of `distill.bench.growth` abreast: a process each, all at the same time on one core."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from distill.bench.growing import FEW, PARTS, Job, Kind

WITH_MEMORY = PARTS[1:]
"""The parts whose memory is told."""
MOST_TIMES = 200
"""How often a small set is taken in a round: as often as makes the images of the largest, but no more than this.

So all of them, FEW too, share the core for nearly as long.
"""


@dataclass(frozen=True, kw_only=True)
class Grown:
    """seconds: of the processor, for one time of each part, once a round. peaks: bytes that a part takes at most."""

    seconds: dict[str, list[float]]
    peaks: dict[str, int | None]


def grown(
    data: Kind, sizes: Sequence[int], aside: Path, *, rounds: int, said: Callable[[str], object] = lambda text: None
) -> dict[int, Grown]:
    """What each size takes, and what FEW images take, all of them measured at the same time on the same core.

    A process each, which the system lets take turns of milliseconds: what slows the machine slows all of them. None
    begins a part before all are done with the one before. said: is told of each.
    """
    every = [FEW, *sizes]
    seconds: dict[int, dict[str, list[float]]] = {size: {part: [] for part in PARTS} for size in every}
    peaks: dict[int, dict[str, int | None]] = {size: {} for size in every}
    with _processes(data, every, aside) as processes:
        said("making images and reading them")
        _answers(processes)
        for number in range(rounds):
            for part in PARTS:
                said(f"round {number + 1} of {rounds}: {part}")
                _ask(processes, {size: ("take", part, times(size, sizes[-1])) for size in every})
                for size, mean in _answers(processes).items():
                    seconds[size][part].append(mean)
        for part in WITH_MEMORY:
            _ask(processes, dict.fromkeys(every, ("peak", part, 1)))
            for size, peak in _answers(processes).items():
                peaks[size][part] = peak
    return {size: Grown(seconds=seconds[size], peaks=peaks[size]) for size in every}


@contextmanager
def _processes(data: Kind, sizes: Sequence[int], aside: Path) -> Iterator[dict[int, Connection]]:
    """Ends of pipes to a process for each size, which are ended with the context."""
    context = multiprocessing.get_context("spawn")
    started, ends = [], {}
    try:
        for size in sizes:
            ends[size], theirs = context.Pipe()
            process = context.Process(target=_answering, args=(data, size, aside / str(size), theirs))
            interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is ended by this process
            try:
                process.start()
            finally:
                signal.signal(signal.SIGINT, interrupted)
            started.append(process)
            theirs.close()
        yield ends
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.join()


def _ask(processes: dict[int, Connection], questions: dict[int, tuple[str, str, int]]) -> None:
    for size, question in questions.items():
        with suppress(OSError):  # it is gone, which its answer will tell
            processes[size].send(question)


def _answers(processes: dict[int, Connection]) -> dict[int, Any]:
    """What each says next. ValueError as soon as one has failed or is gone."""
    said: dict[int, Any] = {}
    while len(said) < len(processes):
        ready = wait([end for size, end in processes.items() if size not in said])
        for size, end in processes.items():
            if end in ready:
                try:
                    said[size] = end.recv()
                except (EOFError, OSError):
                    raise ValueError(f"the process for {size:,} images was killed; is there memory for all?") from None
                if isinstance(said[size], str):
                    raise ValueError(f"{size:,} images: {said[size]}")
    return said


def _answering(data: Kind, size: int, aside: Path, asked: Connection) -> None:
    """The body of one process: says None when it is ready, and then what is asked for; an error as a text."""
    multiprocessing.set_start_method(None, force=True)  # loaders are begun as in a run, not as this process was
    threading.Thread(target=_end_with_parent, daemon=True).start()
    jobs: list[Job] = []

    def begin() -> None:
        on_one_core()
        first = Job(data, FEW, aside / "first")
        for part in PARTS:  # what the first of all costs is nobody's
            first.take(part)
        jobs.append(Job(data, size, aside / "own"))
        jobs[0].read()

    with suppress(EOFError, OSError):  # nobody asks or listens any more
        asked.send(_said(begin))
        while True:
            what, part, count = asked.recv()
            peak, take = partial(jobs[0].peak, part), partial(jobs[0].mean, part, count)
            asked.send(_said(peak if what == "peak" else take))


def _said(work: Callable[[], Any]) -> Any:
    """What it returns, or its error as a text."""
    try:
        return work()
    except Exception as error:
        return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _end_with_parent() -> None:
    """A process that was killed leaves none behind that computes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def on_one_core() -> None:
    """Keep this process on the first core that it may use, with one thread; where the system has it."""
    import torch

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def times(size: int, largest: int) -> int:
    """How often a set of this size is taken in a round."""
    return max(1, min(largest // size, MOST_TIMES))
