"""ViTKD: early blocks imitate, the last block's grid is masked and regenerated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from distill.losses.contract import Functions, Layer, Needs, check_factors, check_same, require_teacher
from distill.losses.later import F
from distill.losses.pairs import Pairs, layers_of
from distill.losses.precision import student_and_teacher
from distill.losses.schedule import CONSTANT, Schedule
from students.outputs import Shapes

if TYPE_CHECKING:
    from torch import Tensor

    from distill.losses.bound.vitkd import BoundViTKD


@student_and_teacher
def squared_error(fs: Tensor, ft: Tensor) -> Tensor:
    """Sum over all elements of (fs - ft)², divided by the images, of grids [B, C, H, W]: ViTKD's mimicking."""
    check_same(fs, ft)
    return F.mse_loss(fs, ft, reduction="sum") / len(fs)


@student_and_teacher
def masked_squared_error(fs: Tensor, ft: Tensor, mask: Tensor) -> Tensor:
    """`squared_error` at the masked positions alone, mask [B, 1, H, W] of 0 and 1: ViTKD's generation."""
    check_same(fs, ft)
    return (mask * (fs - ft).square()).sum() / len(fs)


@dataclass(frozen=True, kw_only=True)
class ViTKD:
    """Early grids imitate the teacher's; of the last, half the tokens are masked and regenerated as the teacher's.

    Made for ViT teachers, whose blocks have one scale; for a CNN name its stages. Reads no labels: under mixing both
    models see the mixed image. Where widths differ the student's grids are projected, a 1×1 convolution each; a mask
    token and two 3×3 convolutions regenerate. Where two grids differ in size, the larger is averaged down. Sums over
    elements divided by the images, so the factors are small; a wider teacher weighs more.
    """

    paper: ClassVar[str] = "Yang et al. 2022, arXiv:2209.02432"
    functions: ClassVar[Functions] = (squared_error, masked_squared_error)

    weight: float = 1.0
    """Factor of this loss in the total."""
    schedule: Schedule = CONSTANT
    """How the weight changes over the run."""
    pairs: Pairs = ((0, 0), (1, 1))
    """Student layer, teacher layer, of the grids that imitate."""
    generated: tuple[Layer, Layer] = (-1, -1)
    """Student layer, teacher layer, of the grid that is masked and regenerated."""
    mimic: float = 3e-5
    """Factor of the imitation."""
    generate: float = 3e-6
    """Factor of the regeneration, before it is divided by the masked share."""
    mask_ratio: float = 0.5
    """Share of the tokens that are masked."""

    @property
    def needs(self) -> Needs:
        return Needs(**layers_of(self.read), address=True)

    @property
    def read(self) -> Pairs:
        """The pairs that have a factor; the last one is regenerated if `generate` is not 0."""
        return (self.pairs if self.mimic else ()) + ((self.generated,) if self.generate else ())

    def bind(self, student: Shapes, teacher: Shapes | None, images: int) -> BoundViTKD:
        check_factors(mimic=self.mimic, generate=self.generate)
        if self.generate and not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio is {self.mask_ratio}; use a share between 0 and 1, or generate 0")
        from distill.losses.bound.vitkd import BoundViTKD

        return BoundViTKD(self, student, require_teacher(teacher))
