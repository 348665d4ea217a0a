"""The same images, each of them once and seen on the terms of every model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from distill.compare.corruptions import corrupt
from distill.compare.terms import Terms
from distill.data import Images
from distill.loader import START, clear_up_after_loaders, default_workers, known, shares

BATCH_SIZE = 64
FEW = 64
"""So many images are loaded in the process: starting loader processes would take longer."""

Corruption = tuple[str, int]
"""A corruption's name and its strength, 1 to 5."""


@dataclass(frozen=True)
class Seen:
    """The same images as each of the terms sees them, [B, C, H, W]; labels [B], None if unlabelled; index [B]."""

    views: dict[Terms, Tensor]
    labels: Tensor | None
    index: Tensor
    corruption: Corruption | None


class _Views(Dataset[Any]):
    def __init__(self, images: Images, terms: Sequence[Terms]) -> None:
        self.images, self.terms = images, terms

    def __getitem__(self, address: tuple[Corruption | None, int]) -> tuple[list[Tensor], int, int]:
        corruption, index = address
        image, label = self.images[index]
        if corruption:
            image = corrupt(image, *corruption, index=index)
        return [terms(image) for terms in self.terms], label, index


def seen(
    images: Images,
    terms: Sequence[Terms],
    *,
    indices: Sequence[int],
    process: int = 0,
    processes: int = 1,
    corruptions: Sequence[Corruption | None] = (None,),
) -> Iterator[Seen]:
    """One process's share of the images at `indices`, in order, once for each corruption; None leaves them as they are.

    Its batches of each corruption are those of `distill.loader.shares`.
    """
    distinct = list(dict.fromkeys(terms))
    cuts = shares(len(indices), BATCH_SIZE, process, processes)
    parts = [[(corruption, indices[at]) for at in cut] for corruption in corruptions for cut in cuts]
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    workers = 0 if sum(map(len, parts)) <= FEW else default_workers(here)
    clear_up_after_loaders()
    loader = DataLoader(
        _Views(images, distinct),
        batch_sampler=parts,  # pyright: ignore[reportArgumentType]
        num_workers=workers,
        multiprocessing_context=START if workers else None,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
    )
    for part, (views, labels, index) in zip(parts, loader, strict=True):
        yield Seen(dict(zip(distinct, views, strict=True)), labels, index, part[0][0])


def _collate(samples: list[tuple[list[Tensor], int, int]]) -> tuple[list[Tensor], Tensor | None, Tensor]:
    views, labels, index = zip(*samples, strict=True)
    return [torch.stack(of_one) for of_one in zip(*views, strict=True)], known(labels), torch.tensor(index)


def spread(total: int, most: int | None) -> range | list[int]:
    """At most so many of the indices 0 … total - 1, evenly spaced; None: all."""
    if most is None or most >= total:
        return range(total)
    return [at * total // most for at in range(most)]
