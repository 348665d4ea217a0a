"""A hint's projections."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from distill.losses.bound.layout import with_plain_gradient
from distill.losses.hint import Hint, hint, standardize_channels
from distill.losses.pairs import grids_of, match_size, resolve
from distill.losses.precision import at_least_float32
from students.outputs import Outputs, Shapes


class BoundHint(nn.Module):
    """A hint that knows its layers; holds one 1×1 projection a pair."""

    def __init__(self, options: Hint, student: Shapes, teacher: Shapes) -> None:
        super().__init__()
        self.options = options
        self.pairs = [replace(p, projection="1×1 convolution") for p in resolve(options.pairs, student, teacher)]
        self.projections = nn.ModuleList(
            with_plain_gradient(nn.Conv2d(pair.student_shape[0], pair.teacher_shape[0], kernel_size=1))
            for pair in self.pairs
        )

    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor | None) -> Tensor:
        assert teacher is not None
        terms = []
        for pair, project in zip(self.pairs, self.projections, strict=True):
            fs, ft = grids_of(pair, student, teacher)
            fs, ft = match_size(at_least_float32(fs), at_least_float32(ft))
            if self.options.normalize:
                ft = standardize_channels(ft, gather=self.options.gather)
            terms.append(hint(project(fs), ft))
        return torch.stack(terms).sum()
