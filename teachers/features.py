"""Frozen features of many views in memory-mapped files, so that a million images × 2,048 numbers need no memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

CHUNK_ROWS = 16_384


class FeatureFile:
    """A file of features that is written from the first row to the last; it has its name only once it is whole."""

    def __init__(self, path: Path, rows: int, width: int) -> None:
        self.path, self.aside, self.done = path, path.with_name(f"{path.name}.partial"), 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: Any = np.lib.format.open_memmap(self.aside, "w+", np.float16, (rows, width))

    def append(self, embedding: Tensor) -> None:
        """Write embeddings [B, D]. ValueError for one that float16 cannot hold."""
        half = embedding.detach().to(torch.float16)
        if not bool(half.isfinite().all()):
            raise ValueError(
                f"a feature is {float(embedding.abs().max()):.3g}, which is no number or too large for float16 "
                "(65,504); this teacher's head has to be fitted in the recipe, with --teacher.head fit"
            )
        self.rows[self.done : self.done + len(half)] = half.cpu().numpy()
        self.done += len(half)

    def close(self) -> None:
        """Give the file its name."""
        assert self.done == len(self.rows)
        self.rows.flush()
        del self.rows
        self.aside.replace(self.path)


@dataclass(frozen=True)
class Features:
    """Features of one process's images in several views.

    views: [N, D] of each view, float16, mapped from a file or on a device; the first is the plain one.
    labels: [N]. held_out: [N] of bool, the images that the head's weights are not fitted on, in any view.
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    held_out: Tensor

    @classmethod
    def open(cls, paths: list[Path], labels: Tensor, held_out: Tensor) -> Self:
        """The features in files that `FeatureFile` wrote. Nothing is read yet."""
        # Copy-on-write, because torch wants to be allowed to write; nothing does.
        return cls(tuple(torch.from_numpy(np.load(path, mmap_mode="c")) for path in paths), labels, held_out)

    @property
    def width(self) -> int:
        return self.views[0].shape[1]

    def near(self, device: torch.device) -> Features:
        """The same features on a CUDA device, where they take at most half of what is free; else as they are."""
        size = sum(view.numel() * view.element_size() for view in self.views)
        if device.type != "cuda" or size > torch.cuda.mem_get_info(device)[0] / 2:
            return self
        return Features(tuple(view.to(device) for view in self.views), self.labels, self.held_out)

    def chunks(self, device: torch.device, *, held_out: bool, plain: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows [B, D] in float32 and labels [B] of the images that are held out, or of those that are not.

        plain: of the first view alone.
        """
        for view in self.views[:1] if plain else self.views:
            for start in range(0, len(view), CHUNK_ROWS):
                part = slice(start, start + CHUNK_ROWS)
                kept = (self.held_out[part] == held_out).nonzero().squeeze(1)
                if len(kept):
                    x = view[part][kept.to(view.device)].to(device).float()
                    yield x, self.labels[part][kept].to(device)
