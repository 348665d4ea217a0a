"""A head that stands in for a fitted one: random, so that a teacher that is asked wrongly is found out."""

from __future__ import annotations

import torch

from distill.preflight import Plan
from distill.teaching import Heads, zero_head
from teachers import Head

SPREAD = 0.5  # of a class's logits for features of length 1 in each direction: soft targets that are not uniform


def random_head(plan: Plan) -> Heads | None:
    """Of the shape of the head that the recipe asks to be fitted, the same at every call; None where it is its own."""
    zeros = zero_head(plan)
    return tuple(map(_drawn, zeros)) if isinstance(zeros, tuple) else _drawn(zeros)


def _drawn(head: Head | None) -> Head | None:
    if head is None:
        return None
    generator = torch.Generator().manual_seed(0)
    weight = SPREAD * torch.randn(head.weight.shape, generator=generator)
    return Head(weight, torch.zeros(len(weight)), l2=0, heldout_top1=0, heldout_nll=0)
