"""Images held in memory, and the .npz file that they come from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
from numpy.lib.npyio import NpzFile

from distill.data.contract import UNLABELLED

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """Images in one .npz file.

    It holds train_images, val_images (uint8, [N, H, W] grey or [N, H, W, 3]), train_labels, val_labels (integers [N])
    and classes (strings). Without train_labels and classes it is unlabelled.
    """

    path: str
    """The .npz file."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(Path(self.path).absolute()))  # recipe.json is read from other folders

    @property
    def classes(self) -> tuple[str, ...]:
        with self._open() as file:
            return tuple(str(name) for name in self._read(file, "classes")) if "classes" in file else ()

    def train(self) -> ArrayImages:
        return self._split("train")

    def val(self) -> ArrayImages:
        return self._split("val")

    def fingerprint(self) -> str:
        with self._open():  # for its error
            pass
        with Path(self.path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _open(self) -> NpzFile:
        try:
            # Pickled objects inside would run code, so they are not allowed.
            file = np.load(self.path, allow_pickle=False)
        except FileNotFoundError:
            raise ValueError(f"there is no file {self.path}; name an .npz file with --data.path") from None
        except Exception:  # of a damaged file numpy and zipfile raise whatever they stumble over
            file = None
        if not isinstance(file, NpzFile):
            raise ValueError(
                f"{self.path} is no .npz file of plain arrays, without pickled objects, or is cut short; "
                "fetch or save it again, with numpy.savez"
            )
        return file

    def _read(self, file: NpzFile, name: str) -> np.ndarray:
        self._check_size(file, name)
        try:
            array = file[name]
        except Exception as error:
            if isinstance(error, ValueError) and "allow_pickle" in str(error):
                why = "holds pickled objects, not numbers; save a plain array"
            else:
                why = f"cannot be read ({' '.join(str(error).split()) or type(error).__name__}); fetch or save it again"
            raise ValueError(f"{name} in {self.path} {why}") from None
        if not isinstance(array, np.ndarray):  # what numpy gives for bytes that do not begin as an array does
            raise ValueError(f"{name} in {self.path} cannot be read (it is no array); fetch or save it again")
        return array

    def _check_size(self, file: NpzFile, name: str) -> None:
        # A small archive may unpack to any size; arrays are held in memory anyway.
        assert file.zip is not None
        members = {info.filename.removesuffix(".npy"): info.file_size for info in file.zip.infolist()}
        unpacked, memory = members.get(name, 0), psutil.virtual_memory().total
        if unpacked > memory:
            raise ValueError(
                f"{name} in {self.path} unpacks to {unpacked / 2**30:,.0f} GiB but this machine has "
                f"{memory / 2**30:,.0f} GiB of memory; use a folder of images"
            )

    def _split(self, split: str) -> ArrayImages:
        with self._open() as file:
            if f"{split}_images" not in file:
                raise ValueError(f"{self.path} holds {', '.join(file)} but no {split}_images")
            images = self._read(file, f"{split}_images")
            labels = (
                self._read(file, f"{split}_labels") if f"{split}_labels" in file else np.full(len(images), UNLABELLED)
            )
            classes = len(self._read(file, "classes")) if "classes" in file else 0
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
            raise ValueError(
                f"{split}_images in {self.path} are {images.dtype} {list(images.shape)}; "
                "use uint8 [N, H, W] or [N, H, W, 3]"
            )
        if len(images) == 0 or len(labels) != len(images):
            raise ValueError(f"{self.path} has {len(images)} {split} images and {len(labels)} labels; use as many, > 0")
        whole = labels.dtype.kind in "iu"
        if labels.ndim != 1 or not whole or labels.min() < UNLABELLED:
            least = f", the least {labels.min()}" if whole else ""
            raise ValueError(
                f"{split}_labels in {self.path} are {labels.dtype} {list(labels.shape)}{least}; "
                "use integers [N] from 0 on"
            )
        if labels.max() >= classes and labels.max() != UNLABELLED:
            raise ValueError(f"{self.path} has a {split} label {labels.max()} but {classes} classes; add to classes")
        return ArrayImages(images, labels.astype(np.int64))


@dataclass(frozen=True)
class ArrayImages:
    """Images held in memory: uint8 [N, H, W] or [N, H, W, 3], and labels [N]."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        from PIL import Image

        return Image.fromarray(self.images[index]), int(self.labels[index])
