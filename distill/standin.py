"""Images that stand in for those of a data set that is not on this machine, for a rehearsal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from distill.data import UNLABELLED, Data, Images, Synthetic, Torchvision
from distill.recipe import Recipe
from distill.unlabelled import Unlabelled

if TYPE_CHECKING:
    from PIL.Image import Image

# Images to train and to validate on, of data sets that recipes name. Others are taken for SOME.
SIZES = {
    "CIFAR10": (50_000, 10_000),
    "CIFAR100": (50_000, 10_000),
    "FashionMNIST": (60_000, 10_000),
    "ImageNet": (1_281_167, 50_000),
}
SOME = 10_000, 1_000
SOME_CLASSES = 10


@dataclass(frozen=True)
class WithoutLabels:
    """A data set, or one split of it, whose labels nobody sees."""

    data: Synthetic
    classes: tuple[str, ...] = ()

    def train(self) -> Images:
        return _Unseen(self.data.train())

    def val(self) -> Images:
        return _Unseen(self.data.val())

    def fingerprint(self) -> str:
        return self.data.fingerprint()


@dataclass(frozen=True)
class _Unseen:
    images: Images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return self.images[index][0], UNLABELLED


def missing(data: Data) -> str | None:
    """What a data set says of its images where they are not on this machine, in a line; None where they are.

    Nothing is fetched. A data set that is there and broken is not missing: preflight says what is wrong with it.
    """
    place = getattr(data, "root", None) or getattr(data, "path", None)
    # A root of torchvision's may hold other data sets, so only looking tells.
    if not isinstance(data, Torchvision) and (not isinstance(place, str) or Path(place).exists()):
        return None
    try:
        without_download(data).train()
    except ValueError as error:
        return str(error)
    return None


def without_download(data: Data) -> Data:
    """The same data set, which fetches nothing and writes nothing into its folder."""
    return replace(data, download=False) if isinstance(data, Torchvision) else data


def stand_in(recipe: Recipe) -> tuple[Recipe, str]:
    """The recipe with synthetic images, as many as its own are known to be; and what was done, in a phrase.

    1,000 classes are taken for ImageNet. The images are as large as the views, and take no time to decode.
    """
    data, student = recipe.data, recipe.student
    name = data.name if isinstance(data, Torchvision) else "ImageNet" if student.num_classes == 1000 else ""
    images, val_images = SIZES.get(name, SOME)
    made = Synthetic(
        images=images,
        val_images=val_images,
        num_classes=student.num_classes or SOME_CLASSES,
        img_size=max(recipe.view_size),
        in_chans=1 if student.in_chans == 1 else 3,
    )
    counted = f"as many as {name} has" if name in SIZES else "a guess"
    unlabelled = isinstance(data, Unlabelled)
    kind = "without labels" if unlabelled else f"of {made.num_classes} classes"
    done = f"synthetic images stand in: {images:,} + {val_images:,} {kind}, {counted}"
    return replace(recipe, data=WithoutLabels(made) if unlabelled else made), done
