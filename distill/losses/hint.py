"""Hints: the student's grids, projected, imitate the teacher's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from distill.losses.contract import Needs
from distill.losses.precision import at_least_float32
from students.outputs import Outputs, Shapes


def hint(fs: Tensor, ft: Tensor) -> Tensor:
    """Mean squared error over all elements of two grids [B, C, H, W] (Romero et al. 2015, arXiv:1412.6550, eq. 3)."""
    return F.mse_loss(at_least_float32(fs), at_least_float32(ft.detach()))


def standardize_channels(grid: Tensor, *, gather: bool = True, eps: float = 1e-5) -> Tensor:
    """A grid [B, C, H, W] with every channel at mean 0 and variance 1 over the batch's images and positions.

    It couples the images of a batch. With gather, the batch is that of all processes together, so that two processes
    give the value of one. A constant channel becomes 0.
    """
    grid = at_least_float32(grid)
    gather = gather and dist.is_available() and dist.is_initialized()
    processes = dist.get_world_size() if gather else 1

    def mean(x: Tensor) -> Tensor:
        x = x.mean((0, 2, 3), keepdim=True) / processes
        if gather:
            dist.all_reduce(x)
        return x

    centred = grid - mean(grid)
    return centred * torch.rsqrt(mean(centred.square()) + eps)


def match_size(fs: Tensor, ft: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two grids [B, C, H, W] to one height and width, the smaller of the two, by averaging the larger down."""
    size = (min(fs.shape[-2], ft.shape[-2]), min(fs.shape[-1], ft.shape[-1]))
    return _shrink(fs, size), _shrink(ft, size)


def _shrink(grid: Tensor, size: tuple[int, int]) -> Tensor:
    return grid if tuple(grid.shape[-2:]) == size else F.adaptive_avg_pool2d(grid, size)


@dataclass(frozen=True, kw_only=True)
class Hint:
    """Projected student grids imitate teacher grids (FitNets 2015; for ViTs, Locality Guidance 2022).

    Reads no labels, so mixing needs no care: both models see the mixed image. The sum over the pairs of the mean
    squared error, after a 1×1 convolution from the student's channels to the teacher's; the projection trains with
    the student and is not exported. Where two grids differ in size, the larger is averaged down.
    """

    weight: float = 2.5
    """Factor of this loss in the total."""
    pairs: tuple[tuple[int | float, int | float], ...] = ((-1, -1),)
    """Student layer, teacher layer, of each pair: a block or stage (3), from the end (-1), or a fraction (0.25)."""
    normalize: bool = True
    """Standardise the teacher's channels over the batch, so that one weight fits every teacher."""
    gather: bool = True
    """Take the statistics over the batch of all processes, so that their number does not change the value."""

    @property
    def needs(self) -> Needs:
        return Needs(
            student_layers=tuple(student for student, _ in self.pairs),
            teacher_layers=tuple(teacher for _, teacher in self.pairs),
        )

    def bind(self, student: Shapes, teacher: Shapes | None) -> BoundHint:
        if teacher is None:
            raise ValueError("it reads a teacher but the recipe has none; name one with teacher=Teacher(name=...)")
        if not self.pairs:
            raise ValueError("it has no pairs; name at least one student layer and teacher layer, or use weight 0")
        return BoundHint(self, student, teacher)


class BoundHint(nn.Module):
    """A hint that knows its layers; holds one 1×1 projection a pair."""

    def __init__(self, options: Hint, student: Shapes, teacher: Shapes) -> None:
        super().__init__()
        self.options = options
        student_layers = _resolved(student, options.needs.student_layers, "student")
        teacher_layers = _resolved(teacher, options.needs.teacher_layers, "teacher")
        self.pairs = list(zip(student_layers, teacher_layers, strict=True))
        self.projections = nn.ModuleList(
            nn.Conv2d(student.grids[s][0], teacher.grids[t][0], kernel_size=1) for s, t in self.pairs
        )

    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor | None) -> Tensor:
        assert teacher is not None
        terms = []
        for (s, t), project in zip(self.pairs, self.projections, strict=True):
            fs, ft = match_size(at_least_float32(student.grids[s]), at_least_float32(teacher.grids[t]))
            if self.options.normalize:
                ft = standardize_channels(ft, gather=self.options.gather)
            terms.append(hint(project(fs), ft))
        return torch.stack(terms).sum()


def _resolved(shapes: Shapes, layers: tuple[int | float, ...], whose: str) -> tuple[int, ...]:
    if not shapes.grids:
        raise ValueError(f"it reads the {whose}'s grids but this model hands out none; use a loss on logits")
    try:
        return shapes.layers(layers)
    except ValueError as error:
        raise ValueError(f"in the {whose}, {error}") from None
