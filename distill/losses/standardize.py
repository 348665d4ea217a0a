"""Logit standardisation: a student learns the shape of its teacher's logits, not their scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.losses.precision import at_least_float32

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_STD = 1e-2


def standardize(logits: Tensor, *, eps: float = 1e-7) -> Tensor:
    """Logits [B, K >= 2] -> (l - mean) / (std + eps) of each row, with the unbiased deviation.

    Sun et al. 2024 (arXiv:2403.01427), algorithm 1. A deviation under 0.01 counts as 0.01: at the constant logits of a
    head that starts at zero the formula's gradient would be 10⁷ times too large.
    """
    if logits.shape[-1] < 2:
        raise ValueError(f"logits are {list(logits.shape)}; a deviation needs two classes or more")
    logits = at_least_float32(logits)
    centred = logits - logits.mean(-1, keepdim=True)
    variance = centred.square().sum(-1, keepdim=True) / (logits.shape[-1] - 1)
    return centred / (variance.clamp_min(SMALLEST_STD**2).sqrt() + eps)
