"""Binding a function of two grids to pairs of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from distill.losses.later import torch
from distill.losses.pairs import Pair, grids_of
from students.outputs import Outputs

if TYPE_CHECKING:
    from torch import Tensor


class OverPairs:
    """A function of two grids [B, C, H, W], summed over pairs of layers."""

    def __init__(self, pairs: list[Pair], loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.pairs, self.loss = pairs, loss

    def __call__(self, student: Outputs, teacher: Outputs | None, labels: Tensor | None) -> Tensor:
        assert teacher is not None
        return torch.stack([self.loss(*grids_of(pair, student, teacher)) for pair in self.pairs]).sum()
