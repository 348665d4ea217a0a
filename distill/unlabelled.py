"""Images without labels: what a student learns its teacher's classes from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distill.data.bad import OnBad
from distill.data.contract import UNLABELLED, Images
from distill.data.files import FileImages, Paths, class_folders, files_digest, image_files, image_root

if TYPE_CHECKING:
    from distill.recipe import Recipe
    from students.outputs import Shapes


@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """A folder of images, at any depth, whose labels nobody knows: the student learns from the teacher alone.

    The student's classes are the teacher's. Without a `val_root` of class folders, validation says how often the
    student decides as the teacher does, and how far its probabilities are from the teacher's.
    """

    root: str
    """The folder; names of folders inside mean nothing."""
    val_root: str | None = None
    """Images to validate on instead: one folder a class, named as the teacher's classes; or images without labels."""
    val_fraction: float = 0.1
    """Share of the images set apart for validation where there is no val_root."""
    split_seed: int = 0
    """Of that split. It is not the run's seed, so that runs with other seeds are tested on the same images."""
    label_names: tuple[str, ...] = ()
    """Class folders of val_root in the order of the teacher's logits; none: as the teacher names its classes, or, where
    it names none, in alphabetical order."""
    on_bad: OnBad = "error"
    """An image that cannot be read ends the run, or is listed in bad_images.txt and replaced by the next one."""

    def __post_init__(self) -> None:
        for name in ("root", "val_root"):
            if getattr(self, name) is not None:  # recipe.json is read from other folders
                object.__setattr__(self, name, str(Path(getattr(self, name)).absolute()))

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    def with_classes(self, names: tuple[str, ...], count: int) -> Unlabelled:
        """The same images with the teacher's classes, `names` or () where it has none, to read val_root by.

        ValueError if val_root has a class that the teacher has not.
        """
        names = self.label_names or names
        if names and len(names) != count:
            raise ValueError(f"data.label_names has {len(names)} names but the teacher has {count} classes")
        folders = class_folders(Path(self.val_root)) if self.val_root and Path(self.val_root).is_dir() else ()
        if folders and not names and len(folders) != count:
            raise ValueError(
                f"{self.val_root} has {len(folders)} class folders but the teacher has {count} classes without names; "
                "give their names in the order of its logits with --data.label-names"
            )
        if names and (unknown := sorted(set(folders) - set(names))):
            raise ValueError(
                f"{self.val_root} has a class {unknown[0]!r} that the teacher has not; it has "
                f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}: rename the folder, or use --data.label-names"
            )
        return replace(self, label_names=names or folders)

    def train(self) -> FileImages:
        return self._rest() if self.val_root else self._split()[0]

    def val(self) -> FileImages:
        if self.val_root is None:
            return self._split()[1]
        root = image_root(self.val_root, "--data.val-root")
        folders = class_folders(root)
        if not folders:
            return self._images(root, image_files(root)[0])
        # A folder that is no class of the teacher was refused, so each folder is among the names.
        index = {name: label for label, name in enumerate(self.label_names or folders)}
        paths, counts = image_files(*(root / name for name in folders))
        labels = np.repeat([index[name] for name in folders], counts)
        return FileImages(paths, labels, self.on_bad, root=str(root))

    def fingerprint(self) -> str:
        return files_digest(*(self._split() if self.val_root is None else (self.train(), self.val())))

    def _rest(self) -> FileImages:
        root = image_root(self.root, "--data.root")
        held = Path(str(self.val_root))
        paths, _ = image_files(root)
        if held.is_relative_to(root):
            apart = np.array([Path(folder).is_relative_to(held) for folder in paths.folders], dtype=bool)
            paths = paths[np.flatnonzero(~apart[paths.folder])]
        return self._images(root, paths)

    def _split(self) -> tuple[FileImages, FileImages]:
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}; use a share between 0 and 1")
        root = image_root(self.root, "--data.root")
        images = self._images(root, image_files(root)[0])
        if len(images) < 2:
            raise ValueError(f"{root} holds one image; a split needs 2 or more")
        count = min(max(round(len(images) * self.val_fraction), 1), len(images) - 1)
        is_val = np.zeros(len(images), dtype=bool)
        is_val[np.random.default_rng(self.split_seed).permutation(len(images))[:count]] = True
        return images.where(~is_val), images.where(is_val)

    def _images(self, root: Path, paths: Paths) -> FileImages:
        if not len(paths):
            raise ValueError(f"{root} holds no images; name a folder that has some, at any depth")
        return FileImages(paths, np.full(len(paths), UNLABELLED), self.on_bad, root=str(root))


def labelled(images: Images) -> bool:
    """Whether images have labels; of a data set that does not show its labels, whether the first one has."""
    labels = getattr(images, "labels", None)
    if labels is None:
        return not len(images) or images[0][1] != UNLABELLED
    return not np.any(np.asarray(labels) == UNLABELLED)


def with_teachers_classes(recipe: Recipe, teacher: Shapes) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe for images without classes: the student's and the validation's are the teacher's; and their names.

    ValueError if the student has another number of classes, or the validation classes that the teacher has not.
    """
    assert recipe.teacher is not None
    count, student = teacher.num_classes, recipe.student
    if student.num_classes not in (None, count):
        raise ValueError(
            f"student has {student.num_classes} classes but the teacher, who alone says what is learnt, has {count}; "
            f"use --student.num-classes {count}"
        )
    names = recipe.teacher.label_names() or ()
    # A data set of one's own need not know of this.
    told = getattr(recipe.data, "with_classes", None)
    data = told(names, count) if told else recipe.data
    names = getattr(data, "label_names", ()) or names
    return replace(recipe, student=replace(student, num_classes=count), data=data), names
