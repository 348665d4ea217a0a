"""ViTKD's projections, its mask, and what regenerates."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from distill.losses.bound.layout import with_plain_gradient
from distill.losses.contract import Address
from distill.losses.pairs import Pair, grids_of, match_size, resolve
from distill.losses.precision import at_least_float32
from distill.losses.vitkd import ViTKD, masked_squared_error, squared_error
from students.outputs import Outputs, Shapes


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
