"""What a data set is: train() and val() that give (image, label) by index, and the names of the classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image

UNLABELLED = -1
"""The label of an image that has none."""


class Images(Protocol):
    """Images and labels by index; a label is UNLABELLED or an index into the classes.

    Optional members are used where they are there: `order(seed)`, a random order that can be cut by slices, for images
    that are cheap to read only in some orders; `bad`, a `BadImages` of what was passed over; and `file(index)`, the
    path of an image's file below the data's folder, for reports.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image, int]: ...


class Data(Protocol):
    """A data set. `classes` are names in the order of the labels; empty if the training images have no labels.

    An optional `notes(train, val)` gives lines for the run's summary.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    def train(self) -> Images: ...

    def val(self) -> Images: ...

    def fingerprint(self) -> str:
        """A digest that changes when the images or labels do."""
        ...
