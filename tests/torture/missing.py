"""Faults of what a run reads and where it writes: gone, cut short, read-only, and back again."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.torture.faults import SIX, Fault, ended, goes_on, killed_at, same
from tests.torture.small import Place


def teacher_removed(place: Place, out: Path) -> str | None:
    """Its weights go between two parts of a run, and come back."""
    killed_at(place, out, 15)
    with away(place.teacher / "model.safetensors"):
        run = place.run(out, *SIX)
    return ended(run, 2, str(place.teacher)) or goes_on(place, out)


def teacher_removed_while_running(place: Place, out: Path) -> str | None:
    """Its whole folder goes while it teaches; it is in memory."""
    run = place.start(out, *SIX)
    run.until(lambda: run.steps() >= 9)
    with away(place.teacher):
        run.wait()
    # Its figures in the report come from its folder, so a run without it says so and goes on once it is back.
    if run.process.exitcode == 0:
        return same(place, out)
    return ended(run, 2, str(place.teacher)) or goes_on(place, out)


def cut_short(what: str) -> Fault:
    """A download that broke off: the teacher's weights, or the images."""

    def fault(place: Place, out: Path) -> str | None:
        file = place.data if what == "images" else place.teacher / "model.safetensors"
        killed_at(place, out, 15)
        whole = file.read_bytes()
        with away(file):
            file.write_bytes(whole[: len(whole) // 2])
            run = place.run(out, *SIX)
        return ended(run, 2, str(file if what == "images" else file.parent)) or goes_on(place, out)

    return fault


def not_writable(place: Place, out: Path) -> str | None:
    """The folder's disk is read-only for a while, as one is after an error of its own."""
    out.parent.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(out.parent)], capture_output=True).returncode:
        raise NotImplementedError("no right to mount")
    try:
        # Loader processes outlive a killed run by seconds, with its files open.
        run = place.start(out, *SIX, "--workers", "0")
        run.until(lambda: run.steps() >= 15)
        run.kill()
        subprocess.run(["mount", "-o", "remount,ro", str(out.parent)], check=True)
        run = place.run(out, *SIX)
        subprocess.run(["mount", "-o", "remount,rw", str(out.parent)], check=True)
        return ended(run, 2, "cannot be written (Read-only file system)") or goes_on(place, out)
    finally:
        subprocess.run(["umount", str(out.parent)], check=True)


def another_recipe(place: Place, out: Path) -> str | None:
    """The folder of a run with another learning rate is refused, and left as it was."""
    killed_at(place, out, 15)
    run = place.run(out, *SIX, "--optim.lr", "0.5")
    return ended(run, 2, "holds a run of another recipe (optim.lr: 0.002 -> 0.5)") or goes_on(place, out)


@contextmanager
def away(path: Path) -> Iterator[None]:
    """Without a file or folder in the block; what stands in its place then is removed."""
    aside = path.with_name(f"{path.name}.away")
    os.rename(path, aside)
    try:
        yield
    finally:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        os.rename(aside, path)


ONE: dict[str, Fault] = {
    "teacher's file removed": teacher_removed,
    "teacher removed while running": teacher_removed_while_running,
    "teacher's file cut short": cut_short("teacher"),
    "images cut short": cut_short("images"),
    "folder not writable": not_writable,
    "folder of another recipe": another_recipe,
}
