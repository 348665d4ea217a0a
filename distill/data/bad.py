"""Images that cannot be read: named, and with on_bad="skip" counted and replaced by a rule.

The rule: in the place of an image that cannot be read stands the next one of the set that can, with its own label;
after the last comes the first. It looks at the files alone, so that a resumed run, and any number of processes and
loader workers, show the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from distill.masked import without_secrets

OnBad = Literal["error", "skip"]

T = TypeVar("T")

MOST_IN_A_ROW = 100  # so that a set of nothing but broken files ends the run instead of being searched at every index


class BadImage(ValueError):
    """The bytes of an image are no image that can be shown. `line` is what stands in the list of such images."""

    line: str = ""


def bad_image(name: str, reason: object) -> BadImage:
    """The error for an image, named by its path, or by its shard and member."""
    # It is kept in the run's folder.
    line = f"{printable(without_secrets(name))} cannot be read as an image ({' '.join(str(reason).split())})"
    error = BadImage(f"{line}; mend it or move it away, or pass over such images with --data.on-bad skip")
    error.line = line
    return error


def printable(text: str) -> str:
    """A user's text on one line: as it is, or with what cannot be printed spelt out."""
    return text if text.isprintable() else ascii(text)[1:-1]


class BadImages:
    """The images of a set that were passed over, a line each, in this process and, once told, in its loaders."""

    def __init__(self) -> None:
        self.lines: dict[str, None] = {}
        self._untold: list[str] = []

    def add(self, lines: Sequence[str]) -> None:
        """Remember lines; each counts once."""
        for line in lines:
            if line not in self.lines:
                self.lines[line] = None
                self._untold.append(line)

    def untold(self) -> tuple[str, ...]:
        """The lines that were added since this was last asked: what a loader tells its run."""
        told, self._untold = tuple(self._untold), []
        return told


def readable(index: int, images: int, read: Callable[[int], T], bad: BadImages | None) -> T:
    """`read(index)`; with `bad`, where that is a BadImage, what is read at the next index that can be read."""
    try:
        return read(index)
    except BadImage as error:
        if bad is None:
            raise
        line = error.line
    for step in range(1, min(images, MOST_IN_A_ROW)):
        try:
            found = read((index + step) % images)
        except BadImage:
            continue
        bad.add([line])
        return found
    raise ValueError(f"{line}, and neither can those that follow it; is this a folder of images?")
