"""`python -m distill.bench.index`: what it takes to find the images of a folder, as they become more."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.bench.alone import start
from distill.bench.machine import provenance

CLASSES = 100
ROUNDS = 3
MB = 10**6


@dataclass(frozen=True, kw_only=True)
class Index:
    """Measure the index of a folder of tiny image files, half of it training images: its time, memory, fingerprint.

    The files are written first, so what the system knows of them is in memory.
    """

    files: tuple[int, ...] = (128_000, 256_000)
    """Numbers of files, each 200 or more."""
    json: bool = False
    """Print JSON instead of a table."""

    def __call__(self) -> None:
        if not self.files or min(self.files) < 2 * CLASSES:
            raise ValueError(f"--files are {self.files}; use numbers of {2 * CLASSES} or more")
        found = {count: indexed(count) for count in self.files}
        if self.json:
            print(json.dumps(provenance("distill.bench.index") | {"files": found}, indent=1))
            return
        print("| Files | Time | Memory held | at the peak | Fingerprint |\n| --- | --- | --- | --- | --- |")
        for count, one in found.items():
            print(
                f"| {count:,} | {one['seconds']:.2f} s | {one['held_bytes'] / MB:.0f} MB | "
                f"{one['peak_bytes'] / MB:.0f} MB | {one['fingerprint_seconds']:.2f} s |"
            )


def indexed(files: int) -> dict[str, float]:
    """Seconds of the index and of the fingerprint, medians; bytes that Python holds for it, and held at most."""
    from distill.data import Folder

    with tempfile.TemporaryDirectory() as aside:
        write(Path(aside), files)

        def index() -> Any:
            folder = Folder(root=aside)
            images = folder.train(), folder.val()
            assert sum(map(len, images)) == files
            return folder, images

        seconds, fingerprint = _median(index), _median(lambda: Folder(root=aside).fingerprint())
        tracemalloc.start()
        kept = index()
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        del kept
    return {"seconds": seconds, "held_bytes": held, "peak_bytes": peak, "fingerprint_seconds": fingerprint}


def write(root: Path, files: int) -> None:
    """So many empty files that are named as images, half in train and half in val, in 100 classes each."""
    for split, count in (("train", files - files // 2), ("val", files // 2)):
        for label in range(CLASSES):
            folder = root / split / f"class_{label:03}"
            folder.mkdir(parents=True)
            for number in range(label, count, CLASSES):
                (folder / f"{number:07}.jpg").touch()


def _median(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


if __name__ == "__main__":
    start(Index, "python -m distill.bench.index")
