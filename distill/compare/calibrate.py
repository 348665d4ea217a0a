"""Calibration of a model before and after temperature scaling, without ever fitting on what is measured."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from teachers.calibration import BINS, calibration_error, fit_temperature, reliability, rows_at_a_time

Reduce = Callable[[Tensor], Tensor]
FEW = 500
"""Labelled images below which a temperature is a rough guess: each half of them has one of its own."""


def half_of(index: Tensor) -> Tensor:
    """0 or 1 for each image: Knuth's multiplicative hash, so that every second or fourth image falls into both."""
    return (index * 2_654_435_761 >> 16) & 1


class KeptLogits:
    """Logits of labelled images on disk, in two halves by a bit that is mixed from an image's index.

    The files have no name and are gone with the object. Memory is that of one batch.
    """

    def __init__(self, folder: Path | None = None) -> None:
        # A run's folder may be on the main process's machine alone.
        place = folder if folder and folder.is_dir() else None
        self.halves = tuple(_Rows(tempfile.TemporaryFile(dir=place)) for _ in range(2))  # noqa: SIM115 - closed with the object

    def add(self, logits: Tensor, labels: Tensor, index: Tensor) -> None:
        """Logits [B, K], labels [B] and the indices [B] of the images in their set."""
        for number, half in enumerate(self.halves):
            chosen = (half_of(index) == number).to(logits.device)
            half.append(logits[chosen], labels[chosen])

    def close(self) -> None:
        for half in self.halves:
            half.file.close()


class _Rows:
    """Rows of float32 logits in a file, read by slices, and their labels."""

    def __init__(self, file: BinaryIO | Any) -> None:
        self.file, self.width = file, 0
        self.parts: list[Tensor] = []
        self.rows = 0

    def append(self, logits: Tensor, labels: Tensor) -> None:
        self.width = logits.shape[1]
        self.file.write(logits.float().cpu().contiguous().numpy().tobytes())
        self.parts.append(labels.to("cpu", torch.int32))
        self.rows += len(labels)

    @property
    def labels(self) -> Tensor:
        return torch.cat(self.parts).long() if self.parts else torch.zeros(0, dtype=torch.long)

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.width

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, part: slice) -> Tensor:
        start, stop, _ = part.indices(self.rows)
        self.file.seek(start * self.width * 4)
        read = np.frombuffer(self.file.read((stop - start) * self.width * 4), dtype=np.float32)
        return torch.from_numpy(read.copy()).view(stop - start, self.width)


def caveat(labelled: int) -> str | None:
    """What is to be known of a temperature that was fitted on so many images; None where they are enough."""
    if labelled >= FEW:
        return None
    image = "image" if labelled == 1 else "images"
    return (
        f"T comes from {labelled:,} labelled {image}, half of them at a time: below {FEW:,} it is a rough guess, and "
        "figures at T can be far from those on more images, worse than before too."
    )


def scaled(kept: KeptLogits, reduce: Reduce) -> dict[str, Any] | None:
    """The measures of every half at the temperature that the other half has, together; None for an empty half.

    "temperature" is the geometric mean of the halves' temperatures. reduce: sums over processes.
    """
    sizes = reduce(torch.tensor([len(half) for half in kept.halves], dtype=torch.float64))
    if not bool((sizes > 0).all()):
        return None
    fitted = [fit_temperature(cast(Tensor, half), half.labels, reduce) for half in kept.halves]
    sums = torch.zeros(2 + 3 * BINS, dtype=torch.float64)
    for half, temperature in zip(kept.halves, reversed(fitted), strict=True):
        labels = half.labels
        step = rows_at_a_time(half.width)
        for start in range(0, len(half), step):
            part = slice(start, start + step)
            sums += probabilistic(half[part] / temperature, labels[part])
    return {"temperature": math.sqrt(fitted[0] * fitted[1]), "after": measures(reduce(sums))}


def probabilistic(logits: Tensor, labels: Tensor) -> Tensor:
    """Sums over images, float64: negative log-likelihood, Brier score, and the flat table of `reliability`."""
    log_p = logits.double().log_softmax(-1)
    nll = F.nll_loss(log_p, labels, reduction="sum")
    p = log_p.exp()
    brier = (p.square().sum(-1) - 2 * p.gather(1, labels.unsqueeze(1)).squeeze(1) + 1).sum()
    return torch.cat([torch.stack([nll, brier]), reliability(logits, labels).flatten()]).cpu()


def measures(sums: Tensor) -> dict[str, Any]:
    """What `probabilistic` summed, as nll, brier, ece and the bins of the reliability curve."""
    table = sums[2:].view(BINS, 3)
    images = float(table[:, 0].sum())
    return {
        "nll": float(sums[0]) / images,
        "brier": float(sums[1]) / images,
        "ece": calibration_error(table),
        "bins": [
            {"confidence": of / n if n else None, "accuracy": right / n if n else None, "images": int(n)}
            for n, of, right in table.tolist()
        ],
    }
