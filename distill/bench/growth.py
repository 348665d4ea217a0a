"""`python -m distill.bench.growth`: whether an image costs as much among 100,000 as among 1,000."""

from __future__ import annotations

import json
import signal
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from distill.bench.abreast import WITH_MEMORY, Grown, grown
from distill.bench.alone import start
from distill.bench.growing import BATCH, FEW, PARTS, Kind
from distill.bench.machine import provenance


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Measure the time per image of training, validation and comparison as the images become more.

    A tiny student takes one epoch over each number of images, loading in the process, on one thread. All numbers of
    images are measured at the same time, by processes that share the first core that this one may use, in seconds of
    the processor; small sets again and again. Training is measured from its second batch to its last; of the others
    what starting costs is taken off. Every image was read once before.
    """

    data: Kind = "arrays"
    """Where the images lie: in one file, in a file each, or nowhere, for they are made."""
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000)
    """Numbers of images, rising; each 1000 or more."""
    rounds: int = 3
    """Rounds, in each of which every size has its turns."""
    json: bool = False
    """Print JSON instead of a table."""

    def __call__(self) -> None:
        if list(self.sizes) != sorted(set(self.sizes)) or not self.sizes or self.sizes[0] < 2 * FEW:
            raise ValueError(f"--sizes are {self.sizes}; use rising numbers, from {2 * FEW} on")
        if self.rounds < 1:
            raise ValueError(f"--rounds is {self.rounds}; use 1 or more")
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that all is cleared up
        console = Console(stderr=True)
        with tempfile.TemporaryDirectory() as aside, console.status("starting") as status:
            said = status.update if console.is_terminal else console.print
            found = grown(self.data, self.sizes, Path(aside), rounds=self.rounds, said=said)
        each = {size: {part: per_image(found[size], found[FEW], size, part) for part in PARTS} for size in self.sizes}
        if self.json:
            told = {"seconds_per_image": each, "taken": {size: asdict(one) for size, one in found.items()}}
            print(json.dumps(provenance("distill.bench.growth") | told, indent=1))
            return
        print("| Images | Training, µs an image | Validation | Comparison | Memory of these two, MiB |")
        print("| --- | --- | --- | --- | --- |")
        for size, seconds in each.items():
            cells = [cell(seconds[part], each[self.sizes[0]][part]) for part in PARTS]
            peaks = [found[size].peaks[part] for part in WITH_MEMORY]
            memory = ", ".join("unknown" if peak is None else f"{peak / 2**20:.0f}" for peak in peaks)
            print(f"| {size:,} | {' | '.join(cells)} | {memory} |")


def per_image(one: Grown, few: Grown, size: int, part: str) -> list[float]:
    """Seconds that an image takes, once a round: in training from the second batch to the last, else beyond FEW."""
    if part == "train":
        return [between / ((size // BATCH - 2) * BATCH) for between in one.seconds[part]]
    return [(whole - start) / (size - FEW) for whole, start in zip(one.seconds[part], few.seconds[part], strict=True)]


def cell(seconds: list[float], smallest: list[float]) -> str:
    """Microseconds, median and range over the rounds, and times the smallest set: the median of the rounds' ratios."""
    ratios = [one / other for one, other in zip(seconds, smallest, strict=True)]
    spread = f" ({1e6 * min(seconds):.0f} to {1e6 * max(seconds):.0f})" if len(seconds) > 1 else ""
    return f"{1e6 * statistics.median(seconds):.0f}{spread}, × {statistics.median(ratios):.2f}"


if __name__ == "__main__":
    start(Growth, "python -m distill.bench.growth")
