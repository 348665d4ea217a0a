"""What a run's process does: imported once by a server that every run is then copied from, in milliseconds."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import distill.compare.report
import distill.job
import distill.rehearsal
import distill.saved.saving
import distill.teaching
import distill.train
from distill import Arrays, Recipe, run
from distill.losses import Needs
from distill.saved.command import SaveOptions
from tests.tiny_recipe import recipe


@dataclass(frozen=True, kw_only=True)
class Poison:
    """A loss that fails at one step: its value or its gradient is NaN, or there is no memory for a larger batch."""

    weight: float = 1.0
    step: int = 0
    steps: int = 40
    kind: str = "value"
    fits: int = 64
    rank: int | None = None  # the only process of it; None: all

    @property
    def needs(self) -> Needs:
        return Needs(head="class", address=True)

    def bind(self, student: Any, teacher: Any, images: int) -> Any:
        def loss(student: Any, teacher: Any, labels: Any, address: Any) -> torch.Tensor:
            zero = student.logits.float().sum() * 0
            if self.kind == "memory" and len(student.logits) > self.fits:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            if self.rank not in (None, int(os.environ.get("RANK", "0"))):
                return zero
            if round(address.progress * self.steps) + 1 != self.step:
                return zero
            if self.kind == "value":
                return zero + float("nan")
            return zero + (zero.sqrt() if self.kind == "gradient" else 0)

        return loss


@dataclass(frozen=True, kw_only=True)
class OneBroken(Arrays):
    """Images of which one cannot be read."""

    index: int = 0

    def train(self) -> Any:
        images, index = super().train(), self.index

        class Images:
            def __len__(self) -> int:
                return len(images)

            def __getitem__(self, i: int) -> Any:
                if i == index:
                    raise ValueError(f"image {i} cannot be read as an image; mend it or move it away")
                return images[i]

        return Images()


def poisoned(**poison: Any) -> Recipe:
    """The tiny recipe with a loss that fails."""
    return replace(recipe, losses={**recipe.losses, "poison": Poison(**poison)})


def with_a_broken_image(data: str, index: int) -> Recipe:
    """The tiny recipe with an image that cannot be read."""
    return replace(recipe, data=OneBroken(path=data, index=index))


def train(out: str, log: str, environment: dict[str, str], args: Sequence[str], value: Recipe, limit: int) -> None:
    """Carry out a recipe in `out`'s parent; what it prints goes to the file `log`. limit: bytes of a file, or 0."""
    _begin(out, log, environment)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    run(value, ["--out", out, *args])


def save(out: str, log: str, environment: dict[str, str], value: Recipe) -> None:
    """Save two epochs of the teacher's outputs."""
    _begin(out, log, environment)
    distill.saved.saving.save(value, SaveOptions(out=out, epochs=2, workers=0, threads=1), "tiny")


def soak(
    folder: str, log: str, environment: dict[str, str], value: Recipe, seconds: float, runs: int | None, found: str
) -> None:
    """A run, its exports and a comparison again and again in this process."""
    from distill.compare.command import Compare
    from distill.export.command import Export
    from tests.torture.soak import SHORT, repeat

    _begin(folder, log, environment)

    def once(out: Path) -> None:
        run(value, ["--out", str(out), *SHORT])
        # Not to ONNX: torch keeps what it found out about shapes, 0.6 MiB, of everything that it ever exported.
        Export(student=out, to="timm", out=out.parent / "timm")()
        Export(student=out, to="hub", out=out.parent / "hub")()
        Compare(models=(str(out), str(out.parent / "hub")), out=out.parent / "compare", cost=False, threads=1)()

    repeat(once, Path(folder), seconds, runs, Path(found))


def fuzz(root: str, log: str, environment: dict[str, str], kind: str, count: int, seed: int, found: str) -> None:
    """Meet broken input, a line of JSON a case."""
    from tests.torture import fuzz as cases
    from tests.torture.small import Place

    _begin(str(Path(root) / "run"), log, environment)
    multiprocessing.set_start_method("forkserver", force=True)  # what the cases themselves begin
    cases.all_of(kind, Place(Path(root)), count, seed, found)


def _begin(out: str, log: str, environment: dict[str, str]) -> None:
    multiprocessing.set_start_method("fork", force=True)  # as in a process that was not begun by a server
    os.setsid()  # a group of its own, which a test signals as a cluster does
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ.update(environment)
    sys.argv = ["tests/tiny_recipe.py"]
