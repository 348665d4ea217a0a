"""`python -m distill.bench.growth`: whether an image costs as much among 100,000 as among 1,000."""

from __future__ import annotations

import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from distill.bench.alone import start
from distill.bench.machine import provenance

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.preflight import Plan

FEW = 500
"""Images whose time is taken off, for it is what starting costs; from so many on a comparison leaves nothing out."""
MOST_TIMES = 100
"""How often a small set is taken in a round: as often as makes the images of the largest, but no more than this."""
SIDE = 16
"""Height and width in pixels."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Measure the time per image of training, validation and comparison as the images become more.

    A tiny student takes one epoch over each number of images, loading in the process, on one thread. In each round a
    small set is taken so often that it makes as many images as the largest; what starting costs is taken off. Every
    image has been read once before.
    """

    data: Literal["arrays", "folder", "synthetic"] = "arrays"
    """Where the images lie: in one file, in a file each, or nowhere, for they are made."""
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000)
    """Numbers of images, rising; each 1000 or more."""
    rounds: int = 3
    """Rounds, in each of which every size has its turn; every other round goes backwards."""
    workers: int = 0
    """Loader processes."""
    json: bool = False
    """Print JSON instead of a table."""

    def __call__(self) -> None:
        if list(self.sizes) != sorted(set(self.sizes)) or not self.sizes or self.sizes[0] < 2 * FEW:
            raise ValueError(f"--sizes are {self.sizes}; use rising numbers, from {2 * FEW} on")
        if self.rounds < 1:
            raise ValueError(f"--rounds is {self.rounds}; use 1 or more")
        if self.workers < 0:
            raise ValueError(f"--workers is {self.workers}; use 0 or more")
        with tempfile.TemporaryDirectory() as aside:
            taken, peaks = grown(self.data, self.sizes, Path(aside), rounds=self.rounds, workers=self.workers)
        if self.json:
            told = provenance("distill.bench.growth")
            print(json.dumps(told | {"seconds_per_image": taken, "peak_bytes": peaks}, indent=1))
            return
        print("| Images | Training, µs an image | Validation | Comparison | Memory of these two, MiB |")
        print("| --- | --- | --- | --- | --- |")
        for size, seconds in taken.items():
            cells = [cell(seconds[part], taken[self.sizes[0]][part]) for part in PARTS]
            memory = ", ".join("unknown" if peak is None else f"{peak / 2**20:.0f}" for peak in peaks[size].values())
            print(f"| {size:,} | {' | '.join(cells)} | {memory} |")


Seconds = dict[int, dict[str, list[float]]]
Peaks = dict[int, dict[str, int | None]]


def grown(data: str, sizes: tuple[int, ...], aside: Path, *, rounds: int, workers: int = 0) -> tuple[Seconds, Peaks]:
    """Seconds an image by the number of images, of each part, once a round: "train", "validate", "compare".

    Beside them the most memory, in bytes, that the last two took in the last round.
    """
    import torch
    from accelerate import Accelerator

    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    jobs = {size: _Job(data, size, aside, accelerator, workers) for size in (FEW, *sizes)}
    for job in jobs.values():
        job.read()  # a file is slower to read for the first time, wherever it lies
    jobs[FEW].take()  # what the first of all costs is nobody's
    taken: Seconds = {size: {part: [] for part in PARTS} for size in sizes}
    peaks: Peaks = {}
    for number in range(rounds):
        for size in sizes[:: -1 if number % 2 else 1]:
            few, results = [], []
            for _ in range(times(size, sizes[-1])):
                few.append(jobs[FEW].take()[0])  # each time, for the machine may be slower in some
                seconds, peaks[size] = jobs[size].take()
                results.append(seconds)
            for part in PARTS:
                start, whole = (statistics.mean(seconds[part] for seconds in some) for some in (few, results))
                taken[size][part].append((whole - start) / (size - FEW))
    return taken, {size: peaks[size] for size in sizes}


PARTS = ("train", "validate", "compare")


def times(size: int, largest: int) -> int:
    """How often a set of this size is taken in a round."""
    return max(1, min(largest // size, MOST_TIMES))


class _Job:
    """A tiny student and so many images to train on, and as many to validate on."""

    def __init__(self, data: str, size: int, aside: Path, accelerator: Accelerator, workers: int) -> None:
        from distill import preflight
        from distill.losses import CrossEntropy
        from distill.recipe import Optim, Recipe
        from distill.views import Views
        from students import ViTConfig

        student = ViTConfig(img_size=SIDE, patch_size=8, num_classes=None, embed_dim=16, depth=1, num_heads=1)
        self.recipe = Recipe(
            student=student,
            data=_images(data, size, aside),
            losses={"labels": CrossEntropy()},
            views=Views(scale=(1.0, 1.0), hflip=0.5),
            optim=Optim(epochs=1, batch_size=64, warmup_epochs=0),
        )
        self.check: Callable[[], Plan] = lambda: preflight.check(self.recipe, processes=1, accumulate=1)
        self.accelerator, self.workers = accelerator, workers

    def read(self) -> None:
        """Have the system know every image."""
        plan = self.check()
        for images in (plan.train, plan.val):
            for index in range(len(images)):
                images[index]

    def take(self) -> tuple[dict[str, float], dict[str, int | None]]:
        """Seconds of each part, and the peak memory of validation and comparison in bytes."""
        with tempfile.TemporaryDirectory() as folder:
            taken = self._take(self.check(), Path(folder))
        self.accelerator.free_memory()  # which would keep the student of every run, and save them all again
        return taken

    def _take(self, plan: Plan, out: Path) -> tuple[dict[str, float], dict[str, int | None]]:
        from torch.utils.data import Subset

        import students
        from distill.bench.peak import peak_bytes
        from distill.compare.candidate import keyed
        from distill.compare.classes import agree
        from distill.compare.measure import Comparison, Extent
        from distill.compare.models import student_candidate
        from distill.compare.terms import of_views
        from distill.compare.validation import Validation
        from distill.console import Console
        from distill.options import RunOptions
        from distill.train import evaluate, train

        console, seconds, peaks = Console(main=False), {}, {}
        began = time.perf_counter()
        few: Any = Subset(cast(Any, plan.val), range(FEW))  # which the last epoch ends with
        options = RunOptions(log_every_steps=10**9, checkpoint_every_steps=10**9)
        student = train(replace(plan, val=few), None, self.accelerator, out, options, console, workers=self.workers)
        seconds["train"] = time.perf_counter() - began

        def taken(part: str, work: Callable[[], object]) -> None:
            def timed() -> None:
                began = time.perf_counter()
                work()
                seconds[part] = time.perf_counter() - began

            peaks[part] = peak_bytes(timed, self.accelerator.device)

        taken("validate", lambda: evaluate(plan, student, None, self.accelerator, self.workers))

        students.save(student, out / "student", label_names=plan.classes)
        terms = of_views(plan.recipe.views, plan.recipe.view_size, plan.recipe.student.in_chans)
        own = student_candidate(student, out, self.accelerator, baseline=True, terms=terms, names=plan.classes)
        images = Validation("images", plan.val, plan.classes)
        space = agree(images.classes, keyed([own]))
        comparison = Comparison(space, images, self.accelerator, console, reference=None, scratch=out)
        taken("compare", lambda: comparison.measure(Extent(cka_images=0, cost=False)))
        return seconds, peaks


def _images(data: str, size: int, aside: Path) -> Any:
    from distill.data import Arrays, Folder, Synthetic

    classes = 10
    if data == "synthetic":
        return Synthetic(images=size, val_images=size, num_classes=classes, img_size=SIDE)
    rng = np.random.default_rng(size)
    labels = np.arange(size) % classes
    names = [f"class_{label}" for label in range(classes)]
    if data == "arrays":
        train, val = rng.integers(0, 256, (2, size, SIDE, SIDE, 3), np.uint8)
        file = aside / f"{size}.npz"
        np.savez(
            file, train_images=train, val_images=val, train_labels=labels, val_labels=labels, classes=np.array(names)
        )
        return Arrays(path=str(file))
    for split in ("train", "val"):
        for name in names:
            (aside / str(size) / split / name).mkdir(parents=True)
        for index, label in enumerate(labels):
            file = aside / str(size) / split / names[label] / f"{index:06}.jpg"
            file.write_bytes(_jpeg(rng))
    return Folder(root=str(aside / str(size)))


def _jpeg(rng: np.random.Generator) -> bytes:
    from PIL import Image

    with io.BytesIO() as file:
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(file, "JPEG")
        return file.getvalue()


def cell(seconds: list[float], smallest: list[float]) -> str:
    """Microseconds, median and range over the rounds, and times the smallest set: the median of the rounds' ratios."""
    ratios = [one / other for one, other in zip(seconds, smallest, strict=True)]
    spread = f" ({1e6 * min(seconds):.0f} to {1e6 * max(seconds):.0f})" if len(seconds) > 1 else ""
    return f"{1e6 * statistics.median(seconds):.0f}{spread}, × {statistics.median(ratios):.2f}"


if __name__ == "__main__":
    start(Growth, "python -m distill.bench.growth")
