"""The global batches of a run, and one process's part of them."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.util import get_temp_dir
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from distill.data import UNLABELLED, BadImages, Images
from distill.signals import spare_loader
from distill.views import Transform, at_address, derived_seed, order

START = "fork" if sys.platform == "linux" else None
"""How loader processes begin. Elsewhere as Python does it there: each imports torch and gets its data set pickled."""
# A socket's path has at most 107 bytes on Linux and 103 on macOS, of which its own folder and name take 32.
LONGEST_TEMPORARY = 103 - len("/pymp-01234567/listener-01234567")


@dataclass(frozen=True)
class Batch:
    """Views [B, C, H, W] and labels [B], None if unlabelled, of the images at `position` … of an epoch's order.

    index: [B], of each image in the set. epoch: the one whose order, views and mixtures are shown. An image that
    cannot be read and is passed over has its own index and address, and another's picture and label.
    """

    views: Tensor
    labels: Tensor | None
    index: Tensor
    epoch: int
    position: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a run's images fall into steps, accumulation steps and processes. Incomplete batches are left out.

    views_epochs: the views of so many epochs are shown in turn; None: every epoch has its own. repeats: times that a
    batch shows each of its images.
    """

    images: int
    batch_size: int
    epochs: int
    processes: int = 1
    accumulate: int = 1
    views_epochs: int | None = None
    repeats: int = 1

    @property
    def steps_per_epoch(self) -> int:
        return self.images // self.batch_size

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    @property
    def part(self) -> int:
        """Images that one process takes in one accumulation step."""
        return self.batch_size // (self.processes * self.accumulate)

    def parts(self, process: int, start_step: int) -> Iterator[tuple[int, int]]:
        """(epoch whose views are shown, position in it) of each part that a process takes, from a step on."""
        for step in range(start_step, self.steps):
            epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
            epoch %= self.views_epochs or self.epochs
            for micro in range(self.accumulate):
                part = micro * self.processes + process
                yield epoch, step_in_epoch * self.batch_size + part * self.part

    def shown(self, order: Order, position: int, size: int) -> list[tuple[int, int]]:
        """(image, which of its views) at `size` positions of a batch, the epoch's order of images given.

        A batch takes batch_size / repeats images, rounded up, and shows them again and again until it is full, rotated
        by one each time so that mixing meets other neighbours, and never an image itself.
        """
        if self.repeats == 1:
            return [(int(index), 0) for index in order[position : position + size]]
        distinct = -(-self.batch_size // self.repeats)  # Hoffer et al. 2020, arXiv:1901.09335
        step, first = divmod(position, self.batch_size)
        indices = order[step * distinct : (step + 1) * distinct]
        rounds = [divmod(place, distinct) for place in range(first, first + size)]
        return [(int(indices[(place + view) % distinct]), view) for view, place in rounds]


class Order(Protocol):
    """Indices of images, cut by slices."""

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


def order_of(images: Images, seed: int, epoch: int) -> Order:
    """The order in which an epoch shows images: their own where they have one, for those that are costly to jump in."""
    own = getattr(images, "order", None)
    return order(seed, epoch, len(images)) if own is None else own(derived_seed(seed, epoch, "order"))


def bad_images(images: Images) -> BadImages | None:
    """What was passed over of a set, or of the set that this is a part of; None if it passes nothing over."""
    whole: Any = images
    while isinstance(whole, Subset):
        whole = whole.dataset
    return getattr(whole, "bad", None)


class _Addressed(Dataset[tuple[Tensor, int, int]]):
    """Views by address (epoch, index, which of its views)."""

    def __init__(self, images: Images, transform: Transform, seed: int | None) -> None:
        self.images, self.transform, self.seed = images, transform, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, address: tuple[int, int, int]) -> tuple[Tensor, int, int]:
        epoch, index, again = address
        image, label = self.images[index]
        if self.seed is None:
            return self.transform(image), label, index
        with at_address(self.seed, epoch, index, *(again,) * (again > 0)):
            return self.transform(image), label, index

    def collate(self, samples: list[tuple[Tensor, int, int]]) -> tuple[Tensor, Tensor | None, Tensor, tuple[str, ...]]:
        """Views, labels and indices of a batch, and the bad images that this process has come across since the last."""
        views, labels, index = zip(*samples, strict=True)
        bad = bad_images(self.images)
        return torch.stack(views), known(labels), torch.tensor(index), bad.untold() if bad else ()


class _Addresses:
    """A batch sampler: the addresses of `size` images at each (epoch, position) in turn."""

    def __init__(self, parts: Iterable[tuple[int, int]], layout: Layout, size: int, seed: int, images: Images) -> None:
        self.parts, self.layout, self.size, self.seed, self.images = parts, layout, size, seed, images

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        current, indices = -1, None
        for epoch, position in self.parts:
            if epoch != current:
                current, indices = epoch, order_of(self.images, self.seed, epoch)
            assert indices is not None
            yield [(epoch, *shown) for shown in self.layout.shown(indices, position, self.size)]


def train_batches(
    images: Images, transform: Transform, layout: Layout, *, seed: int, process: int, start_step: int, workers: int
) -> Iterator[Batch]:
    """One process's parts of the global batches, from `start_step` to the end of the run."""
    parts = partial(layout.parts, process, start_step)
    return batches_at(parts, layout, images, transform, size=layout.part, seed=seed, workers=workers)


def batches_at(
    parts: Callable[[], Iterable[tuple[int, int]]],
    layout: Layout,
    images: Images,
    transform: Transform,
    *,
    size: int,
    seed: int,
    workers: int,
) -> Iterator[Batch]:
    """The `size` images at each (epoch, position) in turn, all of one batch; `parts` is asked twice."""
    loader = _loader(_Addressed(images, transform, seed), _Addresses(parts(), layout, size, seed, images), workers)
    for (epoch, position), (views, labels, index) in zip(parts(), _told(loader, images), strict=True):
        yield Batch(views, labels, index, epoch, position)


def in_order(
    images: Images,
    transform: Transform,
    *,
    batch_size: int,
    workers: int,
    seed: int | None = None,
    process: int = 0,
    processes: int = 1,
) -> Iterator[Batch]:
    """One process's share of all the images, in order and each of them once, in batches as `shares` has them.

    With a seed, each is in its random view of epoch 0.
    """
    parts = [[(0, i, 0) for i in part] for part in shares(len(images), batch_size, process, processes)]
    loader = _loader(_Addressed(images, transform, seed), parts, workers)
    for part, (views, labels, index) in zip(parts, _told(loader, images), strict=True):
        yield Batch(views, labels, index, 0, part[0][1])


def shares(images: int, batch_size: int, process: int, processes: int) -> list[range]:
    """The batches of one process's share of so many images, in order; the last is as large as is left.

    Every process that has any gets the same number of batches, so that all of them call a divided model equally often.
    """
    own, longest = range(process, images, processes), -(-images // processes)
    parts = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
    if parts and len(parts) < -(-longest // batch_size) and len(parts[-1]) > 1:
        parts[-1:] = [parts[-1][:1], parts[-1][1:]]
    return parts


def known(labels: Sequence[int]) -> Tensor | None:
    """Labels of any kind of integer as [B]; None where one is unknown."""
    return None if UNLABELLED in labels else torch.tensor(labels, dtype=torch.long)


def default_workers(processes_here: int) -> int:
    """Loader processes for each process of this machine: the cores that are left, one to eight."""
    return min(max(cores() // processes_here - 1, 1), 8)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def clear_up_after_loaders() -> None:
    """Let the loader processes begun after this keep their sockets in a folder that this process removes as it ends.

    One that is killed, as all are when a signal ends a run, does not remove its own. Where the temporary folder has so
    long a path that no socket can be made in it, which would have a batch wait for ever, theirs lie in /tmp.
    """
    before = tempfile.tempdir
    if os.name == "posix" and len(os.fsencode(tempfile.gettempdir())) > LONGEST_TEMPORARY:
        tempfile.tempdir = "/tmp"
    try:
        get_temp_dir()  # they take over this process's, once it has one
    finally:
        tempfile.tempdir = before


def _loader(dataset: _Addressed, parts, workers: int) -> DataLoader:
    if workers:
        clear_up_after_loaders()
    return DataLoader(
        dataset,
        batch_sampler=parts,
        num_workers=workers,
        multiprocessing_context=START if workers else None,
        collate_fn=dataset.collate,
        worker_init_fn=spare_loader,
        pin_memory=torch.cuda.is_available(),
    )


def _told(loader: DataLoader, images: Images) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    bad = bad_images(images)
    for views, labels, index, lines in loader:
        if bad:
            bad.add(lines)
        yield views, labels, index
