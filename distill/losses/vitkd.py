"""ViTKD: early blocks imitate, the last block's grid is masked and regenerated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.losses.contract import Address, Layer, Needs, check_factors, check_same, require_teacher
from distill.losses.layout import with_plain_gradient
from distill.losses.pairs import Pair, Pairs, grids_of, layers_of, match_size, resolve
from distill.losses.precision import at_least_float32, student_and_teacher
from distill.losses.schedule import CONSTANT, Schedule
from students.outputs import Outputs, Shapes


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
    functions: ClassVar[tuple[Callable[..., Tensor], ...]] = (squared_error, masked_squared_error)

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
        return BoundViTKD(self, student, require_teacher(teacher))


class BoundViTKD(nn.Module):
    """ViTKD that knows its layers; holds the projections, the mask token and the two convolutions."""

    def __init__(self, options: ViTKD, student: Shapes, teacher: Shapes) -> None:
        super().__init__()
        self.options = options
        self.pairs = [replace(p, projection=_projection(p)) for p in resolve(options.read, student, teacher)]
        self.projections = nn.ModuleList(_project(pair) for pair in self.pairs)
        if options.generate:
            last = self.pairs[-1]
            self.pairs[-1] = replace(last, projection=f"{last.projection}; mask, two 3×3 convolutions")
            width = last.teacher_shape[0]
            self.mask_token = nn.Parameter(torch.zeros(width))
            self.generation = nn.Sequential(
                nn.Conv2d(width, width, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.Conv2d(width, width, kernel_size=3, padding=1),
            )

    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor | None, address: Address) -> Tensor:
        assert teacher is not None
        grids = []
        for pair, project in zip(self.pairs, self.projections, strict=True):
            fs, ft = grids_of(pair, student, teacher)
            fs, ft = match_size(at_least_float32(fs), at_least_float32(ft))
            grids.append((project(fs), ft))
        terms = []
        if self.options.generate:
            fs, ft = grids.pop()
            mask = self.mask(fs, address)
            made = self.generation(torch.where(mask.bool(), self.mask_token.view(1, -1, 1, 1), fs))
            terms.append(self.options.generate / self.options.mask_ratio * masked_squared_error(made, ft, mask))
        terms += [self.options.mimic * squared_error(fs, ft) for fs, ft in grids]
        return torch.stack(terms).sum()

    def mask(self, grid: Tensor, address: Address) -> Tensor:
        """[B, 1, H, W], 1 where a token is masked: the same number of every image, drawn by its place in the batch."""
        (height, width), rows = grid.shape[-2:], slice(address.start, address.start + len(grid))
        kept = int(height * width * (1 - self.options.mask_ratio))
        generator = torch.Generator(grid.device).manual_seed(address.seed)
        noise = torch.rand(address.total, height * width, generator=generator, device=grid.device)[rows]
        mask = (noise.argsort(-1).argsort(-1) >= kept).to(grid.dtype)
        return mask.unflatten(1, (1, height, width))


def _projection(pair: Pair) -> str:
    return "none" if pair.student_shape[0] == pair.teacher_shape[0] else "1×1 convolution"


def _project(pair: Pair) -> nn.Module:
    same = pair.student_shape[0] == pair.teacher_shape[0]
    if same:
        return nn.Identity()
    return with_plain_gradient(nn.Conv2d(pair.student_shape[0], pair.teacher_shape[0], kernel_size=1))
