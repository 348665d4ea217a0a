"""OFA's branches from stages to logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.losses.bound.layout import with_plain_gradient
from distill.losses.contract import logits_of
from distill.losses.pairs import Pair, grid_layer
from distill.losses.precision import at_least_float32
from distill.losses.stages import OFA, ofa
from distill.losses.standardize import standardize
from students.outputs import Outputs, Shapes


class BoundOFA(nn.Module):
    """OFA that knows its layers; holds one branch each."""

    def __init__(self, options: OFA, student: Shapes, teacher: Shapes) -> None:
        super().__init__()
        self.options = options
        self.read = logits_of(options.head, student)
        classes = student.num_classes
        self.pairs = [
            Pair(
                student=layer,
                teacher=None,
                student_shape=student.grids[layer],
                teacher_shape=(classes,),
                projection="branch to logits",
            )
            for layer in sorted({grid_layer(student, name, "student") for name in options.layers})
        ]
        self.branches = nn.ModuleList(
            branch(pair.student_shape[0], max(student.embedding, teacher.embedding), classes) for pair in self.pairs
        )

    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor | None) -> Tensor:
        assert teacher is not None
        assert labels is not None
        said = [self.read(student)] if self.options.logits else []
        for pair, to_logits in zip(self.pairs, self.branches, strict=True):
            assert pair.student is not None
            said.append(to_logits(at_least_float32(student.grids[pair.student])))
        t = teacher.logits
        if self.options.standardize:
            said, t = [standardize(s) for s in said], standardize(t)
        return torch.stack([ofa(s, t, labels, self.options.eps, self.options.temperature) for s in said]).sum()


def branch(channels: int, width: int, classes: int) -> nn.Sequential:
    """A grid [B, channels, H, W] -> logits [B, classes]."""
    return nn.Sequential(
        with_plain_gradient(
            nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1, groups=channels, bias=False)
        ),
        with_plain_gradient(nn.Conv2d(channels, width, kernel_size=1, bias=False)),
        nn.GroupNorm(1, width),  # a batch norm would couple the images and differ between processes
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )
