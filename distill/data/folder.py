"""A folder of images in one folder a class, with or without a split of its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.data.bad import OnBad
from distill.data.contract import Images
from distill.data.decode import SUFFIXES, is_image_name
from distill.data.files import FileImages, class_folders, files_digest, image_files, image_root
from distill.data.split import described, stratified

VAL_NAMES = ("val", "valid", "validation", "test")
SPLITS = {"train", "training", *VAL_NAMES}


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of images in one folder a class.

    With `train` and `val` (or `valid`, `validation`, `test`) inside, as ImageNet has; otherwise `val_fraction` of every
    class is set apart for validation, drawn with `split_seed`.
    """

    root: str
    """The folder."""
    val_fraction: float = 0.1
    """Share of every class set apart where the folder has no split of its own."""
    split_seed: int = 0
    """Of that split. It is not the run's seed, so that runs with other seeds are tested on the same images."""
    on_bad: OnBad = "error"
    """An image that cannot be read ends the run, or is listed in bad_images.txt and replaced by the next one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", str(Path(self.root).absolute()))  # recipe.json is read from other folders

    @property
    def classes(self) -> tuple[str, ...]:
        return self._train_root()[1]

    def train(self) -> FileImages:
        return self._splits()[0]

    def val(self) -> FileImages:
        return self._splits()[1]

    def fingerprint(self) -> str:
        return files_digest(*self._splits())

    def notes(self, train: Images, val: Images) -> tuple[str, ...]:
        """Where the validation images come from, how many a class has, and what is not used."""
        if not isinstance(train, FileImages) or not isinstance(val, FileImages):
            return ()
        train_root, classes = self._train_root()
        val_root = self._val_root(train_root)
        if val_root is None:
            lines = [described(self.val_fraction, self.split_seed)]
        else:
            lines = [f"validation images from {val_root.name}/"]
            rest = [name for name in VAL_NAMES if name != val_root.name and (val_root.parent / name).is_dir()]
            lines += [f"{name}/ is not used" for name in rest]
        sizes = np.bincount(train.labels, minlength=len(classes))
        lines.append(f"{sizes.min():,} to {sizes.max():,} training images a class")
        if len(lacking := np.flatnonzero(np.bincount(val.labels, minlength=len(classes)) == 0)):
            names = ", ".join(classes[label] for label in lacking[:5]) + (" …" if len(lacking) > 5 else "")
            lines.append(f"no validation images of {len(lacking)} of {len(classes)} classes: {names}")
        if outside := sum(is_image_name(entry.name) for entry in os.scandir(train_root)):
            lines.append(f"{outside:,} images in {train_root.name}/ lie in no class folder and are not used")
        return tuple(lines)

    def _train_root(self) -> tuple[Path, tuple[str, ...]]:
        root = image_root(self.root, "--data.root")
        # A folder `train` that holds images itself is a class of that name.
        if (root / "train").is_dir() and (classes := class_folders(root / "train")):
            return root / "train", classes
        if classes := class_folders(root):
            if {name.casefold() for name in classes} <= SPLITS:
                raise ValueError(
                    f"the classes in {root} would be {', '.join(classes)}, which are names of splits; "
                    "call them train and val, with a folder for each class in both"
                )
            if len(classes) == 1:
                raise ValueError(
                    f"{root} has the one class {classes[0]!r}; name the folder whose folders are the classes"
                )
            return root, classes
        raise ValueError(
            f"{root} holds no class folders with images; put each class's images in a folder of its own, "
            "or learn from the teacher alone with recipes/unlabelled.py, or data=Unlabelled(root=...)"
        )

    def _val_root(self, train_root: Path) -> Path | None:
        root = Path(self.root)
        if train_root == root:
            return None
        return next((root / name for name in VAL_NAMES if (root / name).is_dir()), None)

    def _splits(self) -> tuple[FileImages, FileImages]:
        train_root, classes = self._train_root()
        images = self._index(train_root, classes)
        val_root = self._val_root(train_root)
        if val_root is None:
            is_val = stratified(images.labels, classes, self.val_fraction, self.split_seed, self.root)
            return images.where(~is_val), images.where(is_val)
        if unknown := sorted(set(class_folders(val_root)) - set(classes)):
            raise ValueError(f"{val_root} has a class {unknown[0]!r} that {train_root} has not; rename or move it")
        return images, self._index(val_root, classes)

    def _index(self, root: Path, classes: tuple[str, ...]) -> FileImages:
        paths, counts = image_files(*(root / name for name in classes if (root / name).is_dir()))
        present = [label for label, name in enumerate(classes) if (root / name).is_dir()]
        if not len(paths):
            raise ValueError(f"{root} holds no images ({', '.join(sorted(SUFFIXES))}); put some in its class folders")
        labels = np.repeat(np.array(present, dtype=np.int64), counts)
        return FileImages(paths, labels, self.on_bad, root=self.root)
