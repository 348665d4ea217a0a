"""Data sets: frozen dataclasses whose train() and val() give (image, label) by index."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

UNLABELLED = -1
"""The label of an image that has none."""


class Images(Protocol):
    """Images and labels by index; a label is UNLABELLED or an index into the classes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image, int]: ...


class Data(Protocol):
    """A data set. `classes` are names in the order of the labels; empty if the training images have no labels."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    def train(self) -> Images: ...

    def val(self) -> Images: ...

    def fingerprint(self) -> str:
        """A digest that changes when the images or labels do."""
        ...


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
            return tuple(str(name) for name in file["classes"]) if "classes" in file else ()

    def train(self) -> ArrayImages:
        return self._split("train")

    def val(self) -> ArrayImages:
        return self._split("val")

    def fingerprint(self) -> str:
        with self._open():  # for its error
            pass
        with Path(self.path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _open(self):
        try:
            # Pickled objects inside would run code, so they are not allowed.
            return np.load(self.path, allow_pickle=False)
        except FileNotFoundError:
            raise ValueError(f"there is no file {self.path}; name an .npz file with --data.path") from None
        except (OSError, ValueError):
            raise ValueError(
                f"{self.path} is no .npz file of plain arrays, without pickled objects; save it with numpy.savez"
            ) from None

    def _read(self, file, name: str) -> np.ndarray:
        try:
            return file[name]
        except ValueError:
            raise ValueError(f"{name} in {self.path} holds pickled objects, not numbers; save a plain array") from None

    def _split(self, split: str) -> ArrayImages:
        with self._open() as file:
            if f"{split}_images" not in file:
                raise ValueError(f"{self.path} holds {', '.join(file)} but no {split}_images")
            images = self._read(file, f"{split}_images")
            labels = (
                self._read(file, f"{split}_labels") if f"{split}_labels" in file else np.full(len(images), UNLABELLED)
            )
            classes = len(file["classes"]) if "classes" in file else 0
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
            raise ValueError(
                f"{split}_images in {self.path} are {images.dtype} {list(images.shape)}; "
                "use uint8 [N, H, W] or [N, H, W, 3]"
            )
        if len(images) == 0 or len(labels) != len(images):
            raise ValueError(f"{self.path} has {len(images)} {split} images and {len(labels)} labels; use as many, > 0")
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


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of images in one folder a class.

    With `train` and `val` (or `validation`, `test`) inside, as ImageNet has; otherwise `val_fraction` of every class
    is set apart for validation, drawn with `split_seed`.
    """

    root: str
    """The folder."""
    val_fraction: float = 0.1
    """Share of every class set apart where the folder has no split of its own."""
    split_seed: int = 0
    """Of that split. It is not the run's seed, so that runs with other seeds are tested on the same images."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", str(Path(self.root).absolute()))  # recipe.json is read from other folders

    @property
    def classes(self) -> tuple[str, ...]:
        return class_folders(self._train_root())

    def train(self) -> FileImages:
        if self._val_root():
            return self._index(self._train_root())
        return self._split()[0]

    def val(self) -> FileImages:
        root = self._val_root()
        return self._index(root) if root else self._split()[1]

    def fingerprint(self) -> str:
        return files_digest(self.train(), self.val())

    def _train_root(self) -> Path:
        root = Path(self.root)
        if not root.is_dir():
            raise ValueError(f"there is no folder {root}; name a folder of images with --data.root")
        root = root / "train" if (root / "train").is_dir() else root
        if not any(_is_class(entry) for entry in root.iterdir()):
            raise ValueError(
                f"{root} holds no class folders with images; put each class's images in a folder of its own, "
                "or learn from the teacher alone with data=Unlabelled(root=...)"
            )
        return root

    def _val_root(self) -> Path | None:
        root = Path(self.root)
        if not (root / "train").is_dir():
            return None
        return next((root / name for name in ("val", "validation", "test") if (root / name).is_dir()), None)

    def _index(self, root: Path) -> FileImages:
        classes = self.classes
        found = {entry.name for entry in root.iterdir() if _is_class(entry)}
        if unknown := sorted(found - set(classes)):
            raise ValueError(f"{root} has a class {unknown[0]!r} that {self._train_root()} has not; rename or move it")
        paths, labels = [], []
        for label, name in enumerate(classes):
            files = image_files(root / name)
            paths += files
            labels += [label] * len(files)
        if not paths:
            raise ValueError(f"{root} holds no images ({', '.join(sorted(_SUFFIXES))}); put some in its class folders")
        return FileImages(np.array(paths), np.array(labels, dtype=np.int64))

    def _split(self) -> tuple[FileImages, FileImages]:
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}; use a share between 0 and 1")
        images = self._index(self._train_root())
        rng = np.random.default_rng(self.split_seed)
        is_val = np.zeros(len(images), dtype=bool)
        for label in range(len(self.classes)):
            of_class = np.flatnonzero(images.labels == label)
            if len(of_class) < 2:
                raise ValueError(
                    f"class {self.classes[label]!r} in {self.root} has {len(of_class)} images; "
                    "a split needs 2 of each class, or give train and val folders"
                )
            share = min(max(round(len(of_class) * self.val_fraction), 1), len(of_class) - 1)
            is_val[rng.permutation(of_class)[:share]] = True
        return images.where(~is_val), images.where(is_val)


@dataclass(frozen=True)
class FileImages:
    """Images in files: paths [N] and labels [N]. EXIF orientation is applied."""

    paths: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        from PIL import Image, ImageOps

        path = str(self.paths[index])
        try:
            with Image.open(path) as file:
                return ImageOps.exif_transpose(file), int(self.labels[index])
        except Exception as error:  # readers of a dozen formats raise whatever broken bytes make them stumble over
            raise ValueError(f"{path} cannot be read as an image ({_line(error)}); mend it or move it away") from None

    def where(self, keep: Sequence[bool] | np.ndarray) -> FileImages:
        """The images whose entry in `keep` [N] is true."""
        return FileImages(self.paths[keep], self.labels[keep])


_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def image_files(root: Path) -> list[str]:
    """The image files below a folder, at any depth, in order."""
    return sorted(str(file) for file in root.rglob("*") if _is_image(file))


def class_folders(root: Path) -> tuple[str, ...]:
    """The names of the folders in a folder that hold images, in order."""
    return tuple(sorted(entry.name for entry in root.iterdir() if _is_class(entry)))


def files_digest(*splits: FileImages) -> str:
    """A digest of the files' names, labels, sizes and times."""
    digest = hashlib.sha256()
    for images in splits:
        for path, label in zip(images.paths, images.labels, strict=True):
            file = Path(path).stat()
            digest.update(f"{path}\0{label}\0{file.st_size}\0{file.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in _SUFFIXES and not file.name.startswith(".")


def _is_class(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".") and any(_is_image(file) for file in entry.rglob("*"))
