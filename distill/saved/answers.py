"""One row of a shard: what is kept of a teacher's answer to one view, and how it is read back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from students.outputs import Outputs


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The numbers that are kept of K classes' logits and, where `embedding` is its length, of the embedding.

    k None: all K. In float32 the logits as they are; in float16 log-probabilities and their level, log Σ exp(logits),
    because near 0, where the likely classes are, float16 is finest.
    k: the log-probabilities of the k likeliest classes and their indices, the log of the mass that the other K - k have
    together, and the level. Read back, the others share that mass evenly.

    float16 keeps 11 bits: a log-probability l is off by at most |l| / 2048, so a probability p by p · |ln p| / 2048,
    which is nowhere over 0.00018.
    """

    num_classes: int
    k: int | None
    dtype: Literal["float16", "float32"]
    embedding: int = 0

    def __post_init__(self) -> None:
        if self.k is not None and not 0 < self.k < self.num_classes:
            raise ValueError(
                f"k is {self.k} but the teacher has {self.num_classes} classes; use 1 to {self.num_classes - 1}, or all"
            )

    @property
    def row(self) -> np.dtype:
        """The fields of a row, little-endian, without gaps."""
        number = {"float16": "<f2", "float32": "<f4"}[self.dtype]
        embedding = [("embedding", number, (self.embedding,))] if self.embedding else []
        if self.k is None:
            level = [] if self._as_they_are else [("level", number)]
            return np.dtype([("logits", number, (self.num_classes,)), *level, *embedding])
        index = "<u2" if self.num_classes <= 2**16 else "<u4"
        top = [("top", number, (self.k,)), ("index", index, (self.k,))]
        return np.dtype([*top, ("rest", number), ("level", number), *embedding])

    @property
    def bytes_per_image(self) -> int:
        """Bytes of one image in one epoch."""
        return self.row.itemsize

    @property
    def _as_they_are(self) -> bool:
        return self.k is None and self.dtype == "float32"

    def rows(self, outputs: Outputs) -> np.ndarray:
        """Logits [B, K] and embedding [B, D] -> rows [B]. ValueError if a number is not finite, or not in float16."""
        logits = outputs.logits.detach().cpu().double()
        assert logits.shape[1] == self.num_classes
        rows = np.empty(len(logits), self.row)
        level = logits.logsumexp(-1)
        log_p = logits - level.unsqueeze(1)
        with np.errstate(over="ignore"):  # it is infinite then, which is said below
            if self._as_they_are:
                rows["logits"] = logits.numpy()
            elif self.k is None:
                rows["logits"], rows["level"] = log_p.numpy(), level.numpy()
            else:
                top, index = log_p.topk(self.k)
                rows["top"], rows["index"], rows["level"] = top.numpy(), index.numpy(), level.numpy()
                # From the others themselves: one minus the top would be left with their rounding.
                rows["rest"] = log_p.scatter(-1, index, -math.inf).logsumexp(-1).numpy()
            if self.embedding:
                assert outputs.embedding is not None
                rows["embedding"] = outputs.embedding.detach().cpu().float().numpy()
        for name in self.row.names or ():
            if not np.isfinite(rows[name]).all():
                raise ValueError(
                    f"the teacher's {name} is not finite as {self.dtype}; use --dtype float32, or mixed precision 'no'"
                )
        return rows

    def outputs(self, rows: np.ndarray, device: torch.device) -> Outputs:
        """Rows [B] -> float32 logits [B, K] and, where it was kept, embedding [B, D], on the device.

        ValueError if an index is no class.
        """
        embedding = _tensor(rows["embedding"], device) if self.embedding else None
        if self._as_they_are:
            return Outputs(_tensor(rows["logits"], device), embedding=embedding)
        level = _tensor(rows["level"], device).unsqueeze(1)
        if self.k is None:
            return Outputs(_tensor(rows["logits"], device) + level, embedding=embedding)
        if rows["index"].max() >= self.num_classes:
            raise ValueError(f"it names class {rows['index'].max()} of {self.num_classes}")
        index = _on(torch.from_numpy(rows["index"].astype(np.int64)), device)
        rest = _tensor(rows["rest"], device).unsqueeze(1)
        return Outputs(spread(_tensor(rows["top"], device), index, rest, level, self.num_classes), embedding=embedding)


def spread(top: Tensor, index: Tensor, rest: Tensor, level: Tensor, num_classes: int) -> Tensor:
    """Log-probabilities top [B, k], falling, of classes index [B, k], and rest [B, 1] of all others -> logits [B, K].

    Each of the others gets rest - log(K - k). level [B, 1] is added to all.
    """
    k = top.shape[1]
    # Rounded numbers can tie or change places; the teacher's decision stays its decision.
    even = torch.minimum(rest - math.log(num_classes - k), top[:, -1:])
    logits = (even + level).repeat(1, num_classes).scatter_(1, index, top + level)
    first = index[:, :1]
    return logits.scatter_(1, first, torch.nextafter(logits.gather(1, first), logits.new_tensor(math.inf)))


def _tensor(numbers: np.ndarray, device: torch.device) -> Tensor:
    return _on(torch.from_numpy(numbers.astype(np.float32)), device)


def _on(tensor: Tensor, device: torch.device) -> Tensor:
    # From pinned memory, so that the host does not wait for the copy.
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
