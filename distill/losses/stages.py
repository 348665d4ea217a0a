"""OFA: every stage of the student says what it thinks the class is, so models of any kind meet in logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.losses.contract import (
    Head,
    Layer,
    Needs,
    check_classes,
    check_logits,
    check_positive,
    logits_of,
    require_teacher,
)
from distill.losses.labels import target_class
from distill.losses.layout import with_plain_gradient
from distill.losses.pairs import Pair, grid_layer
from distill.losses.precision import at_least_float32, student_and_teacher
from distill.losses.schedule import CONSTANT, Schedule
from distill.losses.standardize import standardize
from students.outputs import Outputs, Shapes


@student_and_teacher
def ofa(s: Tensor, t: Tensor, labels: Tensor, eps: float = 1.0, temperature: float = 1.0) -> Tensor:
    """-mean over the batch of Σ_K ((p_t + 1_y)^ε - 1_y)·log p_s, of logits s, t [B, K], labels [B] or mixed [B, K].

    Hao et al. 2023 (arXiv:2310.19444), equation 6. With ε = 1 it is the cross-entropy with the teacher's
    probabilities; above 1 it raises the target class where the teacher is sure of it. Of mixed labels the largest
    share is y. Its floor is not 0. Both logits are divided by the temperature.
    """
    check_positive(eps=eps, temperature=temperature)
    check_logits(s, t)
    s, t = s / temperature, t / temperature
    own = F.one_hot(target_class(labels), s.shape[-1])
    target = (t.softmax(-1) + own) ** eps - own
    return -(target * s.log_softmax(-1)).sum(-1).mean()


@dataclass(frozen=True, kw_only=True)
class OFA:
    """The teacher's probabilities, and the label, teach the student's logits and those of its stages, each by itself.

    Every layer named here gets a branch of its own to class logits (a strided 3×3 convolution of each channel, a 1×1
    convolution, a norm, the mean over positions, a linear layer); branches train with the student and are not
    exported. They read patch tokens alone, so a student may have any extra tokens. Of mixed labels the class of the
    largest share is the target. It is a cross-entropy: its floor is not 0. The sum over the stages and the logits.
    """

    paper: ClassVar[str] = "Hao et al. 2023, arXiv:2310.19444"
    functions: ClassVar[tuple[Callable[..., Tensor], ...]] = (ofa,)

    weight: float = 1.0
    """Factor of this loss in the total."""
    schedule: Schedule = CONSTANT
    """How the weight changes over the run."""
    eps: float = 1.0
    """Exponent ε: 1 on small data, up to 1.5 on ImageNet."""
    temperature: float = 1.0
    """Softness of both distributions."""
    layers: tuple[Layer, ...] = (0.17, 0.33, 0.83, 1.0)
    """Student layers that get a branch, each once; of 12 blocks these are 1, 3, 9 and 11."""
    logits: bool = True
    """Also the student's own logits."""
    standardize: bool = False
    """Standardise all logits first (Sun et al. 2024)."""
    head: Head = "auto"
    """The student's head that learns from the teacher: the distillation token's where there is one."""

    @property
    def needs(self) -> Needs:
        return Needs(
            head=self.head if self.logits else None, labels=True, teacher_logits=True, student_layers=self.layers
        )

    def bind(self, student: Shapes, teacher: Shapes | None) -> BoundOFA:
        check_positive(eps=self.eps, temperature=self.temperature)
        check_classes(student, teacher)
        if not (self.layers or self.logits):
            raise ValueError("it has neither layers nor logits to teach; name a student layer, or use weight 0")
        return BoundOFA(self, student, require_teacher(teacher))


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
