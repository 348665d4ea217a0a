"""What `distill.bench.growth` does with each number of images: a tiny student trains, is validated, is compared."""

from __future__ import annotations

import io
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

if TYPE_CHECKING:
    from distill.compare.measure import Comparison
    from distill.data import Images
    from distill.preflight import Plan
    from students import ViT

Kind = Literal["arrays", "folder", "synthetic"]
FEW = 500
"""Images whose time is taken off that of validation and comparison, for it is what starting costs.

From so many on a comparison leaves nothing out.
"""
BATCH = 64
SIDE = 16
"""Height and width in pixels."""
PARTS = ("train", "validate", "compare")


def _processor_seconds() -> float:
    """Seconds that this process has computed, and its loaders that have ended."""
    import resource

    of_loaders = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + of_loaders.ru_utime + of_loaders.ru_stime


class Noted:
    """Images, and the seconds of the processor at which the first of each batch was asked for."""

    def __init__(self, images: Images) -> None:
        self.images, self.asked, self.at = images, 0, list[float]()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if self.asked % BATCH == 0:
            self.at.append(time.process_time())
        self.asked += 1
        return self.images[index]

    @property
    def between(self) -> float:
        """Seconds from the second batch to the last: neither what starting costs nor what ending does."""
        return self.at[-1] - self.at[1]


class Job:
    """A tiny student and so many images to train on, and as many to validate on. Files lie in `aside`."""

    def __init__(self, data: Kind, size: int, aside: Path) -> None:
        from accelerate import Accelerator

        from distill.losses import CrossEntropy
        from distill.recipe import Optim, Recipe
        from distill.views import Views
        from students import ViTConfig

        aside.mkdir(parents=True)
        student = ViTConfig(img_size=SIDE, patch_size=8, num_classes=None, embed_dim=16, depth=1, num_heads=1)
        self.recipe = Recipe(
            student=student,
            data=images_of(data, size, aside),
            losses={"labels": CrossEntropy()},
            views=Views(scale=(1.0, 1.0), hflip=0.5),
            optim=Optim(epochs=1, batch_size=BATCH, warmup_epochs=0),
        )
        self.out, self.accelerator = aside / "run", Accelerator(cpu=True)
        self.student: ViT | None = None

    def plan(self) -> Plan:
        from distill import preflight

        return preflight.check(self.recipe, processes=1, accumulate=1)

    def read(self) -> None:
        """Have the system know every image: a file is slower to read for the first time, wherever it lies."""
        plan = self.plan()
        for images in (plan.train, plan.val):
            for index in range(len(images)):
                images[index]

    def take(self, part: str) -> float:
        """Seconds of the processor that one time of a part takes, once all it needs is there; of training `between`."""
        if part == "train":
            plan = self.plan()
            noted = Noted(plan.train)
            self._train(replace(plan, train=noted))
            return noted.between
        work = self._work(part)
        began = _processor_seconds()
        work()
        return _processor_seconds() - began

    def mean(self, part: str, count: int) -> float:
        """The mean of so many times."""
        return statistics.mean(self.take(part) for _ in range(count))

    def peak(self, part: str) -> int | None:
        """The memory that one time of a part takes at most, in bytes."""
        from distill.bench.peak import peak_bytes

        return peak_bytes(self._work(part), self.accelerator.device)

    def _work(self, part: str) -> Callable[[], object]:
        plan = self.plan()
        assert self.student is not None, "training comes first"
        if part == "validate":
            from distill.train import evaluate

            student = self.student
            return lambda: evaluate(plan, student, None, self.accelerator, workers=0)
        from distill.compare.measure import Extent

        comparison = self._comparison(plan, self.student)
        return lambda: comparison.measure(Extent(cka_images=0, cost=False))

    def _train(self, plan: Plan) -> None:
        from torch.utils.data import Subset

        from distill.console import Console
        from distill.options import RunOptions
        from distill.train import train

        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        few: Any = Subset(cast(Any, plan.val), range(min(FEW, len(plan.val))))  # which the last epoch ends with
        options = RunOptions(log_every_steps=10**9, checkpoint_every_steps=10**9)
        console = Console(main=False)
        self.student = train(replace(plan, val=few), None, self.accelerator, self.out, options, console, workers=0)
        self.accelerator.free_memory()  # which would keep the student of every run, and save them all again

    def _comparison(self, plan: Plan, student: ViT) -> Comparison:
        import students
        from distill.compare.candidate import keyed
        from distill.compare.classes import agree
        from distill.compare.measure import Comparison
        from distill.compare.models import student_candidate
        from distill.compare.terms import of_views
        from distill.compare.validation import Validation
        from distill.console import Console

        if not (self.out / "student").exists():
            students.save(student, self.out / "student", label_names=plan.classes)
        terms = of_views(plan.recipe.views, plan.recipe.view_size, plan.recipe.student.in_chans)
        own = student_candidate(student, self.out, self.accelerator, baseline=True, terms=terms, names=plan.classes)
        images = Validation("images", plan.val, plan.classes)
        space = agree(images.classes, keyed([own]))
        return Comparison(space, images, self.accelerator, Console(main=False), reference=None, scratch=self.out)


def images_of(data: Kind, size: int, aside: Path) -> Any:
    """A data set of so many images in each of two splits; its files, if it has any, are made in `aside`."""
    from distill.data import Arrays, Folder, Synthetic

    classes = 10
    if data == "synthetic":
        return Synthetic(images=size, val_images=size, num_classes=classes, img_size=SIDE)
    rng = np.random.default_rng(size)
    labels = np.arange(size) % classes
    names = [f"class_{label}" for label in range(classes)]
    if data == "arrays":
        train, val = rng.integers(0, 256, (2, size, SIDE, SIDE, 3), np.uint8)
        file = aside / "images.npz"
        np.savez(
            file, train_images=train, val_images=val, train_labels=labels, val_labels=labels, classes=np.array(names)
        )
        return Arrays(path=str(file))
    for split in ("train", "val"):
        for name in names:
            (aside / split / name).mkdir(parents=True)
        for index, label in enumerate(labels):
            file = aside / split / names[label] / f"{index:06}.jpg"
            file.write_bytes(_jpeg(rng))
    return Folder(root=str(aside))


def _jpeg(rng: np.random.Generator) -> bytes:
    from PIL import Image

    with io.BytesIO() as file:
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(file, "JPEG")
        return file.getvalue()
