"""Hints: the student's grids, projected, imitate the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from distill.losses.contract import Functions, Needs, check_same, require_teacher
from distill.losses.later import F, torch
from distill.losses.pairs import Pairs, layers_of
from distill.losses.precision import at_least_float32, student_and_teacher
from distill.losses.processes import mean_over_processes, world_size
from distill.losses.schedule import CONSTANT, Schedule
from students.outputs import Shapes

if TYPE_CHECKING:
    from torch import Tensor

    from distill.losses.bound.hint import BoundHint


@student_and_teacher
def hint(fs: Tensor, ft: Tensor) -> Tensor:
    """Mean squared error over all elements of two grids [B, C, H, W] (Romero et al. 2015, arXiv:1412.6550, eq. 3)."""
    check_same(fs, ft)
    return F.mse_loss(fs, ft)


def standardize_channels(grid: Tensor, *, gather: bool = True, eps: float = 1e-5) -> Tensor:
    """A grid [B, C, H, W] with every channel at mean 0 and variance 1 over the batch's images and positions.

    It couples the images of a batch. With gather, the batch is that of all processes together, so that two processes
    give the value of one. A constant channel becomes 0. ValueError for a single value a channel.
    """
    grid = at_least_float32(grid)
    processes = world_size() if gather else 1
    if processes * grid[:, 0].numel() < 2:
        raise ValueError(
            "a hint standardises the teacher's channels and got one value of each: one image with a 1×1 grid; "
            "use a larger batch, an earlier teacher layer, or normalize False"
        )

    def mean(x: Tensor) -> Tensor:
        x = x.mean((0, 2, 3), keepdim=True)
        return mean_over_processes(x) if processes > 1 else x

    centred = grid - mean(grid)
    return centred * torch.rsqrt(mean(centred.square()) + eps)


@dataclass(frozen=True, kw_only=True)
class Hint:
    """Projected student grids imitate teacher grids; for ViT students this is locality guidance.

    Reads no labels, so mixing needs no care: both models see the mixed image. The sum over the pairs of the mean
    squared error, after a 1×1 convolution from the student's channels to the teacher's; the projection trains with
    the student and is not exported. Where two grids differ in size, the larger is averaged down. With `normalize` it
    couples the images of a batch, by the statistics of the teacher's channels.
    """

    paper: ClassVar[str] = "Romero et al. 2015 (FitNets), arXiv:1412.6550; Li et al. 2022, arXiv:2207.10026"
    functions: ClassVar[Functions] = (hint, standardize_channels)

    weight: float = 2.5
    """Factor of this loss in the total."""
    schedule: Schedule = CONSTANT
    """How the weight changes over the run."""
    pairs: Pairs = ((-1, -1),)
    """Student layer, teacher layer, of each pair: a block or stage (3), from the end (-1), or a fraction (0.25)."""
    normalize: bool = True
    """Standardise the teacher's channels over the batch, so that one weight fits every teacher."""
    gather: bool = True
    """Take the statistics over the batch of all processes, so that their number does not change the value."""

    @property
    def needs(self) -> Needs:
        return Needs(
            **layers_of(self.pairs),
            couples=self.normalize,
            gathers=self.normalize and self.gather,
        )

    def bind(self, student: Shapes, teacher: Shapes | None) -> BoundHint:
        from distill.losses.bound.hint import BoundHint

        return BoundHint(self, student, require_teacher(teacher))
