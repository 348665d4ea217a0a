"""Runs one after another leave nothing behind: how that is judged, and a short soak."""

import multiprocessing
import os
import signal
from multiprocessing.util import get_temp_dir

import pytest

from distill.loader import clear_up_after_loaders
from tests.torture import small, soak


def row(memory: float, files: float = 14) -> dict[str, float]:
    return {"memory MiB": memory, "open files": files, "threads": 3, "child processes": 0}


def test_what_grows_is_named_with_its_slope_and_one_leap_is_no_growth():
    # The first quarter fills caches; behind it 0.05 MiB a run are allowed to memory.
    flat = [row(100 + 30 * min(n, 10) + 0.05 * n) for n in range(40)]
    assert soak.slope(flat, "memory MiB") == pytest.approx(0.05)
    assert soak.grown(flat) == []
    leap = [row(100 + 50 * (n > 30), 14 + 3 * (n == 35)) for n in range(40)]
    assert soak.grown(leap) == []
    leak = [row(100 + 0.3 * n, 14 + n // 2) for n in range(40)]
    assert soak.slope(leak, "open files") == pytest.approx(0.5)
    assert soak.grown(leak) == [
        "memory MiB grow by 0.300 a run, more than 0.1",
        "open files grow by 0.500 a run, more than 0.01",
    ]
    # So many that not all pairs are looked at.
    assert soak.slope([row(2.0 * n) for n in range(2000)], "memory MiB") == pytest.approx(2.0)
    assert soak.left([{"a": 0, "b": 0}, {"a": 2, "b": 0}]) == ["a: 2"]


def test_a_loader_process_that_is_killed_leaves_no_folder_of_its_own():
    clear_up_after_loaders()
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def loader() -> None:
        there.send(get_temp_dir())
        signal.pause()

    process = context.Process(target=loader)
    process.start()
    folder = here.recv()
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert folder == get_temp_dir()  # which the system's own clearing up removes as this process ends


@pytest.mark.slow
def test_runs_one_after_another_leave_nothing_behind(tmp_path):
    place = small.make(tmp_path / "soak")
    rows, wrong = soak.one_process(place, 5, runs=4)
    assert wrong is None
    assert len(rows) == 4
    # Memory takes more runs to say anything.
    assert soak.grown(rows, ("open files", "threads", "child processes")) == []
    rows, wrong = soak.many_processes(place, 5, runs=4)  # the last one is ended by SIGTERM
    assert (wrong, len(rows), soak.left(rows)) == (None, 4, [])
