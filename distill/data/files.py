"""Image files below folders: found without asking for each one's status, and held in a few bytes each."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from distill.data.bad import BadImages, OnBad, printable, readable
from distill.data.decode import is_image_name, open_image

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Paths(Sequence[str]):
    """Paths by index: each folder once, and the names in one string of bytes."""

    folders: tuple[str, ...]
    folder: np.ndarray
    names: bytes
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice | np.ndarray) -> Paths: ...
    def __getitem__(self, index: int | slice | np.ndarray) -> str | Paths:
        if isinstance(index, (slice, np.ndarray)):
            return Paths(self.folders, self.folder[index], self.names, self.starts[index], self.ends[index])
        name = self.names[self.starts[index] : self.ends[index]]
        return os.path.join(self.folders[self.folder[index]], os.fsdecode(name))

    @classmethod
    def of(cls, paths: Iterable[str]) -> Paths:
        """Those of a list, in its order."""
        return cls._of(
            (folder, [os.path.basename(path) for path in run]) for folder, run in groupby(paths, os.path.dirname)
        )

    @classmethod
    def _of(cls, runs: Iterable[tuple[str, list[str]]]) -> Paths:
        folders, folder, names, ends = [], array("i"), bytearray(), array("q")
        for path, found in runs:
            if not folders or folders[-1] != path:
                folders.append(path)
            for name in found:
                names += os.fsencode(name)
                ends.append(len(names))
            folder.extend([len(folders) - 1] * len(found))
        to = np.frombuffer(ends, dtype=np.int64) if ends else np.zeros(0, dtype=np.int64)
        starts = np.concatenate([[0], to[:-1]]).astype(np.int64) if len(to) else to
        return cls(tuple(folders), np.array(folder, dtype=np.int32), bytes(names), starts, to)


@dataclass(frozen=True, eq=False)
class FileImages:
    """Images in files: paths [N] and labels [N]. How each is decoded is said in `open_image`.

    root: the folder that was named, which `file` leaves out; "": the files were named alone.
    """

    paths: Paths
    labels: np.ndarray
    on_bad: OnBad = "error"
    bad: BadImages = field(default_factory=BadImages)
    root: str = ""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return readable(index, len(self), self._read, self.bad if self.on_bad == "skip" else None)

    def _read(self, index: int) -> tuple[Image, int]:
        return open_image(self.paths[index]), int(self.labels[index])

    def where(self, keep: np.ndarray) -> FileImages:
        """The images whose entry in `keep` [N] of bool is true."""
        return FileImages(self.paths[keep], self.labels[keep], self.on_bad, root=self.root)

    def file(self, index: int) -> str:
        """The path of an image below the root, as text that can be shown and written."""
        path = self.paths[index]
        return printable(os.path.relpath(path, self.root) if self.root else os.path.basename(path))


def image_files(*roots: str | Path) -> tuple[Paths, list[int]]:
    """The image files below folders, at any depth, of each folder in the order of their paths; and how many of each.

    Hidden files and folders are left out. A link to a folder is followed, but not to one that holds the root, and no
    folder is entered twice below the same root, so that links that lead round in a circle end.
    """
    counts = []

    def runs() -> Iterator[tuple[str, list[str]]]:
        for root in roots:
            counts.append(0)
            for folder, names in _runs(str(root)):
                counts[-1] += len(names)
                yield folder, names

    return Paths._of(runs()), counts


OTHER_READERS = {
    ".npz": "a recipe reads it with data=Arrays(path=...)",
    ".tar": "a recipe reads it with data=Shards(urls=...)",
    ".parquet": "a recipe reads its folder with data=HuggingFace(name=...)",
    ".zip": "unpack it",
    ".gz": "unpack it",
    ".tgz": "unpack it",
}


def image_root(place: str | Path, option: str) -> Path:
    """A folder that was named. ValueError, naming the option, where there is none, or a file."""
    root = Path(place)
    if root.is_file():
        advice = OTHER_READERS.get(root.suffix.lower(), "it is the folder around it that is asked for")
        raise ValueError(f"{root} is a file and {option} names a folder of images; {advice}")
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}; name a folder of images with {option}")
    return root


def class_folders(root: str | Path) -> tuple[str, ...]:
    """The names of the folders in a folder that hold images, in order. ValueError for a name that cannot be shown."""
    names = sorted(
        name for name, is_folder in _entries(str(root)) if is_folder and _holds_image(os.path.join(root, name))
    )
    for name in names:
        if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) <= 0xDFFF for char in name):
            raise ValueError(f"{root} has a folder {name!a} whose name cannot be shown as text; rename it")
    return tuple(names)


def files_digest(*splits: FileImages) -> str:
    """A digest of the files' names, labels, sizes and times."""
    digest = hashlib.sha256()
    for images in splits:
        for path, label in zip(images.paths, images.labels, strict=True):
            digest.update(f"{path}\0{label}\0{_status(path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def tree_digest(*roots: str | Path) -> str:
    """A digest of the names, sizes and times of all files below folders, or of files that are named themselves."""
    digest = hashlib.sha256()
    for root in roots:
        found = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names] or [str(root)]
        for path in sorted(found):
            digest.update(f"{os.path.relpath(path, root)}\0{_status(path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _status(path: str) -> str:
    try:
        status = os.stat(path)
    except FileNotFoundError:  # a link to nothing, which is an image that cannot be opened when its turn comes
        return "missing"
    return f"{status.st_size}\0{status.st_mtime_ns}"


def _entries(folder: str) -> Iterator[tuple[str, bool]]:
    """(name, whether it is a folder) of the folders and files in a folder that are not hidden."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    yield entry.name, True
                elif entry.is_file() or entry.is_symlink():  # no pipe, which would be waited for
                    yield entry.name, False
    except OSError as error:
        raise ValueError(f"the folder {folder} cannot be read ({error.strerror}); mend that, or move it away") from None


def _runs(root: str) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of images in it), in the order of the whole paths: a folder's names may come in several runs."""
    # What holds the root is no part of it: a link back to it would bring in the other classes' images.
    seen = set(map(str, Path(os.path.realpath(root)).parents))
    pending: list[tuple[str, str, list[str] | None]] = [(root, os.path.realpath(root), None)]
    while pending:
        path, real, names = pending.pop()
        if names is not None:
            yield path, names
            continue
        if real in seen:
            continue
        seen.add(real)
        entries = sorted(
            (f"{name}/" if is_folder else name)
            for name, is_folder in _entries(path)
            if is_folder or is_image_name(name)
        )
        found: list[tuple[str, str, list[str] | None]] = []
        for is_folder, run in groupby(entries, lambda name: name.endswith("/")):
            if not is_folder:
                found.append((path, real, list(run)))
                continue
            for name in run:
                inner = os.path.join(path, name[:-1])
                # Of a link only its target says where it leads; of a folder its place does, without asking.
                leads = os.path.realpath(inner) if os.path.islink(inner) else os.path.join(real, name[:-1])
                found.append((inner, leads, None))
        pending += reversed(found)


def _holds_image(root: str) -> bool:
    seen, pending = set(map(str, Path(os.path.realpath(root)).parents)), [root]
    while pending:
        folder = pending.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        for name, is_folder in _entries(folder):
            if is_folder:
                pending.append(os.path.join(folder, name))
            elif is_image_name(name):
                return True
    return False
