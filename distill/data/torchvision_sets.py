"""The data sets of torchvision, by their names there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from distill.data import idx
from distill.data.bad import BadImages, OnBad, bad_image, readable
from distill.data.contract import Images
from distill.data.decode import open_image
from distill.data.files import tree_digest
from distill.data.published import IDX, SETS, Name, Published
from distill.data.split import described, stratified

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class Torchvision:
    """A data set of torchvision, by its class's name there.

    Trained on its training images (train and val together where it has a test part) and validated on its test part,
    or on val where it has no test labels (ImageNet, Imagenette). EuroSAT has no split and gets a stratified one.
    """

    name: Name
    """The class in torchvision.datasets, such as CIFAR100."""
    root: str = "data"
    """Folder that holds its files, as torchvision lays them out; of MNIST and its kin also the .gz files themselves."""
    download: bool = False
    """Fetch it into root where it is missing."""
    val_fraction: float = 0.1
    """Share of every class set apart where the set has no split of its own."""
    split_seed: int = 0
    """Of that split; not the run's seed."""
    on_bad: OnBad = "error"
    """An image that cannot be read ends the run, or is listed in bad_images.txt and replaced by the next one."""

    def __post_init__(self) -> None:
        if self.name not in SETS:
            raise ValueError(f"torchvision's {self.name!r} is not known here; use one of {', '.join(SETS)}")
        object.__setattr__(self, "root", str(Path(self.root).absolute()))  # recipe.json is read from other folders

    @property
    def classes(self) -> tuple[str, ...]:
        if self.name in IDX:
            return _names(getattr(_torchvision(), self.name), 10)
        known = {"SVHN": 10, "GTSRB": 43}.get(self.name)
        return _names(None if known else self._open(self._set.parts[0][:1])[0], known or 0)

    def train(self) -> Images:
        return self._split("train")

    def val(self) -> Images:
        return self._split("val")

    def fingerprint(self) -> str:
        files = self._idx_files()
        named = [path for pair in files.values() for path in pair] if files else self._present()
        return f"torchvision {self.name} {self.val_fraction} {self.split_seed} {tree_digest(*named)}"

    def notes(self, train: Images, val: Images) -> tuple[str, ...]:
        """How the images are split."""
        train_parts, val_parts = self._set.parts
        if val_parts is None:
            return (described(self.val_fraction, self.split_seed),)
        used, held = ("+".join(part.get("split", "") for part in side) for side in (train_parts, val_parts))
        return (f"torchvision's {used} to train on, {held} to validate on",) if used else ()

    @property
    def _set(self) -> Published:
        return SETS[self.name]

    def _split(self, split: Literal["train", "val"]) -> Images:
        if files := self._idx_files():
            return idx.read_split(*files[split], classes=10)
        own, held = self._set.parts
        opened = self._open(own if split == "train" or held is None else held)
        which = [np.arange(len(part)) for part in opened]
        if held is None:
            labels = np.array(opened[0].targets)
            is_val = stratified(labels, self.classes, self.val_fraction, self.split_seed, self.root)
            which = [np.flatnonzero(is_val if split == "val" else ~is_val)]
        return SetImages(f"{self.name} {split}", tuple(opened), tuple(which), self.on_bad)

    def _idx_files(self) -> dict[str, tuple[Path, ...]] | None:
        if self.name not in IDX:
            return None
        root = Path(self.root)
        folders = (root / self.name / "raw", root / self.name, root)
        if (files := idx.found(folders)) is None:
            self._open(self._set.parts[0])  # which fetches it, or says that it is missing
            files = idx.found(folders)
        return files

    def _present(self) -> list[Path]:
        return sorted(path for name in self._set.files for path in Path(self.root).glob(f"{name}*"))

    def _open(self, parts: tuple[dict[str, Any], ...]) -> list[Any]:
        if not (self.download and self._set.download):
            return [self._part(part, {}) for part in parts]
        from filelock import FileLock

        try:
            Path(self.root).mkdir(parents=True, exist_ok=True)
            # One of several processes fetches; the others find it there.
            with FileLock(Path(self.root) / f".{self.name}.lock"):
                return [self._part(part, {"download": True}) for part in parts]
        except OSError as error:
            raise ValueError(self._not_fetched(getattr(error, "reason", None) or error.strerror or error)) from None

    def _part(self, part: dict[str, Any], more: dict[str, Any]) -> Any:
        loader = {"loader": open_image} if self._set.opens else {}
        try:
            return getattr(_torchvision(), self.name)(self.root, **part, **loader, **more)
        except ModuleNotFoundError as error:
            raise ValueError(f"{self.name} is read with {error.name}; pip install {error.name}") from None
        except (RuntimeError, FileNotFoundError, ValueError) as error:
            if more:
                raise ValueError(self._not_fetched(error)) from None
            fetch = "fetch it with --data.download" if self._set.download else f"take it from {self._set.page}"
            raise ValueError(
                f"{self.name} is missing or damaged in {self.root}; {self._way_out()}, or {fetch}"
            ) from None

    def _not_fetched(self, reason: object) -> str:
        return f"{self.name} could not be fetched ({' '.join(str(reason).split())[:200]}); {self._way_out()}"

    def _way_out(self) -> str:
        return f"put {', '.join(self._set.files)} there, or name another folder with --data.root"


@dataclass(frozen=True, eq=False)
class SetImages:
    """Parts of a torchvision data set, one behind the other, and the indices [N] of each that are used."""

    name: str
    parts: tuple[Any, ...]
    which: tuple[np.ndarray, ...]
    on_bad: OnBad = "error"
    bad: BadImages = field(default_factory=BadImages)

    def __len__(self) -> int:
        return sum(map(len, self.which))

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return readable(index, len(self), self._read, self.bad if self.on_bad == "skip" else None)

    def _read(self, index: int) -> tuple[Image, int]:
        ends = np.cumsum([len(which) for which in self.which])
        number = int(np.searchsorted(ends, index, side="right"))
        place = int(self.which[number][index - ends[number]])  # counted from the end of the part
        try:
            image, label = self.parts[number][place]
        except ValueError:  # ours, with the file's path
            raise
        except (OSError, SyntaxError) as error:
            raise bad_image(f"{self.name} image {place}", error) from None
        return image, int(label)


def _torchvision() -> Any:
    import torchvision.datasets  # waits for torch, which --help must not

    return torchvision.datasets


def _names(opened: Any, count: int) -> tuple[str, ...]:
    # ImageNet's folders have unique names, its words have not.
    names = getattr(opened, "wnids", None) or getattr(opened, "classes", None) or range(count)
    return tuple(str(name) for name in names)
