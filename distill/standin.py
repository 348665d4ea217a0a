"""Images that stand in for those of a data set that is not on this machine, for a rehearsal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distill.data import UNLABELLED, Data
from distill.recipe import Recipe

if TYPE_CHECKING:
    from PIL.Image import Image

# Training and validation images of data sets that recipes name; what is not known is taken for SOME.
SIZES = {
    "CIFAR10": (50_000, 10_000),
    "CIFAR100": (50_000, 10_000),
    "FashionMNIST": (60_000, 10_000),
    "ImageNet": (1_281_167, 50_000),
}
SOME = 10_000, 1_000
SOME_CLASSES = 10


@dataclass(frozen=True)
class Noise:
    """`count` images of noise, each a function of its index; label UNLABELLED where classes is 0."""

    count: int
    size: tuple[int, int]
    mode: str
    classes: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Image, int]:
        from PIL import Image

        shape = (*self.size, 3) if self.mode == "RGB" else self.size
        pixels = np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)
        return Image.fromarray(pixels), index % self.classes if self.classes else UNLABELLED


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """A data set of noise. classes: names, empty where the images have no labels."""

    images: tuple[int, int]
    size: tuple[int, int]
    mode: str
    classes: tuple[str, ...]

    def train(self) -> Noise:
        return Noise(self.images[0], self.size, self.mode, len(self.classes))

    def val(self) -> Noise:
        return Noise(self.images[1], self.size, self.mode, len(self.classes))

    def fingerprint(self) -> str:
        return repr(self)


def missing(data: Data) -> str | None:
    """What a data set says of its images where they are not on this machine, in a line; None where they are.

    A data set that is there and broken is not missing: its error is raised by preflight.
    """
    place = getattr(data, "root", None) or getattr(data, "path", None)
    named = type(data).__name__ == "Torchvision"  # its root may hold other data sets
    if not named and (place is None or Path(place).exists()):
        return None
    try:
        data.train()
    except ValueError as error:
        return str(error)
    return None


def stand_in(recipe: Recipe) -> tuple[Recipe, str]:
    """The recipe with noise for its images, as many as its data set is known to have; and what was done, in a phrase.

    1,000 classes are taken for ImageNet. The images are as large as the views, and read in no time.
    """
    data, student = recipe.data, recipe.student
    name = getattr(data, "name", None) or ("ImageNet" if student.num_classes == 1000 else "")
    train, val = SIZES.get(name, SOME)
    unlabelled = type(data).__name__ == "Unlabelled"
    classes = 0 if unlabelled else student.num_classes or SOME_CLASSES
    noise = StandIn(
        images=(train, val),
        size=recipe.view_size,
        mode="L" if student.in_chans == 1 else "RGB",
        classes=tuple(f"class {label}" for label in range(classes)),
    )
    counted = f"as many as {name} has" if name in SIZES else "a guess"
    kind = f"of {classes} classes" if classes else "without labels"
    from dataclasses import replace

    return replace(recipe, data=noise), f"noise stands in: {train:,} + {val:,} images {kind}, {counted}"
