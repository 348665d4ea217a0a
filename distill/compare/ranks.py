"""Rank correlation of two models' logits."""

from __future__ import annotations

import torch
from torch import Tensor


def rank_correlation(ours: Tensor, theirs: Tensor) -> Tensor:
    """Spearman's correlation over the classes of logits [B, K] and [B, K] -> [B], float64, ties by their mean rank.

    0 where all logits of an image are equal, and for K = 1.
    """
    a, b = _centred_ranks(ours), _centred_ranks(theirs)
    norm = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return torch.where(norm > 0, (a * b).sum(-1) / norm.clamp_min(1e-300), 0.0)


def _centred_ranks(x: Tensor) -> Tensor:
    x = x.contiguous()
    ordered = x.sort(-1).values
    below = torch.searchsorted(ordered, x, right=False)
    up_to = torch.searchsorted(ordered, x, right=True)
    return (below + up_to - x.shape[-1]).double() / 2  # mean rank, counted from the middle
