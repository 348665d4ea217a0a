"""Attention transfer: the student looks where its teacher looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from distill.losses.contract import Bound, Functions, Needs, require_teacher
from distill.losses.grids import OverPairs
from distill.losses.later import F
from distill.losses.pairs import Pairs, layers_of, match_size, resolve
from distill.losses.precision import student_and_teacher
from distill.losses.schedule import CONSTANT, Schedule
from students.outputs import Shapes

if TYPE_CHECKING:
    from torch import Tensor


@student_and_teacher
def attention_transfer(fs: Tensor, ft: Tensor) -> Tensor:
    """Mean over all elements of (â_s - â_t)², of grids [B, C, H, W] with any numbers of channels.

    Zagoruyko & Komodakis 2017 (arXiv:1612.03928), equation 2, as a mean instead of a norm; â is the mean over channels
    of f², flattened and of length 1. Where two grids differ in size, the map of the larger is averaged down: averaged
    before the square, features of both signs, such as a ViT's, would cancel.
    """
    s, t = match_size(fs.square().mean(1, keepdim=True), ft.square().mean(1, keepdim=True))
    return F.mse_loss(F.normalize(s.flatten(1), dim=-1), F.normalize(t.flatten(1), dim=-1))


@dataclass(frozen=True, kw_only=True)
class AttentionTransfer:
    """The maps of where the grids are large agree; no projection is needed.

    Reads no labels: under mixing both models see the mixed image. The sum over the pairs.
    """

    paper: ClassVar[str] = "Zagoruyko & Komodakis 2017, arXiv:1612.03928"
    functions: ClassVar[Functions] = (attention_transfer,)

    weight: float = 1000.0
    """Factor of this loss in the total."""
    schedule: Schedule = CONSTANT
    """How the weight changes over the run."""
    pairs: Pairs = ((-1, -1),)
    """Student layer, teacher layer, of each pair: a block or stage (3), from the end (-1), or a fraction (0.25)."""

    @property
    def needs(self) -> Needs:
        return Needs(
            **layers_of(self.pairs),
        )

    def bind(self, student: Shapes, teacher: Shapes | None) -> Bound:
        return OverPairs(resolve(self.pairs, student, require_teacher(teacher)), attention_transfer)
