"""Losses between the logits of a student and of its teacher that read nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from distill.losses.contract import (
    Bound,
    Functions,
    Head,
    Needs,
    check_classes,
    check_logits,
    check_positive,
    logits_of,
)
from distill.losses.later import F, torch
from distill.losses.precision import student_and_teacher
from distill.losses.schedule import CONSTANT, Schedule
from distill.losses.standardize import standardize
from students.outputs import Outputs, Shapes

if TYPE_CHECKING:
    from torch import Tensor


@student_and_teacher
def soft_targets(s: Tensor, t: Tensor, temperature: float = 4.0) -> Tensor:
    """T² · mean over the batch of KL(softmax(t/T) ‖ softmax(s/T)), of logits s, t [B, K].

    Hinton et al. 2015 (arXiv:1503.02531), section 2. T² keeps the gradient's size when T changes. The sum runs over
    classes and the mean over images: dividing by B·K instead, as DeiT's code does, makes the value K times smaller.
    """
    check_positive(temperature=temperature)
    check_logits(s, t)
    log_s, log_t = F.log_softmax(s / temperature, dim=-1), F.log_softmax(t / temperature, dim=-1)
    log_t = log_t.clamp(min=torch.finfo(log_t.dtype).min)  # a class that the teacher rules out counts 0, and not 0 · ∞
    return F.kl_div(log_s, log_t, reduction="batchmean", log_target=True) * temperature**2


@student_and_teacher
def hard_targets(s: Tensor, t: Tensor) -> Tensor:
    """Cross-entropy of student logits s [B, K] with the teacher's decisions argmax t, t [B, K].

    Touvron et al. 2021 (DeiT, arXiv:2012.12877), equation 3. The teacher's decision is never smoothed.
    """
    check_logits(s, t)
    return F.cross_entropy(s, t.argmax(-1))


@student_and_teacher
def bce_targets(s: Tensor, t: Tensor, multi_label: bool = False) -> Tensor:
    """Binary cross-entropy of sigmoid(s) with the teacher's probabilities, the mean over all B·K, of logits [B, K].

    The probabilities are softmax(t), or, of a teacher of several labels an image, sigmoid(t). Its floor is the
    entropy of those probabilities, not 0.
    """
    check_logits(s, t)
    return F.binary_cross_entropy_with_logits(s, t.sigmoid() if multi_label else t.softmax(-1))


@dataclass(frozen=True, kw_only=True)
class SoftTargets:
    """The teacher's softened probabilities; under mixing the teacher sees the mixed image and no label is read."""

    paper: ClassVar[str] = "Hinton et al. 2015, arXiv:1503.02531"
    functions: ClassVar[Functions] = (soft_targets, standardize)

    weight: float = 1.0
    """Factor of this loss in the total."""
    schedule: Schedule = CONSTANT
    """How the weight changes over the run."""
    temperature: float = 4.0
    """Softness T of both distributions: 4 is usual on small data, 1 without labels (Beyer et al. 2022)."""
    standardize: bool = False
    """Standardise both logits first (Sun et al. 2024): then temperature 2, weight 9, and 0.1 for the labels."""
    head: Head = "auto"
    """The student's head that learns from the teacher: the distillation token's where there is one."""

    @property
    def needs(self) -> Needs:
        return Needs(head=self.head, teacher_logits=True)

    def bind(self, student: Shapes, teacher: Shapes | None) -> Bound:
        check_positive(temperature=self.temperature)
        return between_logits(
            lambda s, t: soft_targets(s, t, temperature=self.temperature),
            student,
            teacher,
            head=self.head,
            standardized=self.standardize,
        )


@dataclass(frozen=True, kw_only=True)
class HardTargets:
    """The teacher's decisions as labels; under mixing the teacher decides on the mixed image."""

    paper: ClassVar[str] = "Touvron et al. 2021 (DeiT), arXiv:2012.12877"
    functions: ClassVar[Functions] = (hard_targets,)

    weight: float = 0.5
    """Factor of this loss in the total; DeiT gives the labels the other half."""
    schedule: Schedule = CONSTANT
    """How the weight changes over the run."""
    head: Head = "auto"
    """The student's head that learns from the teacher: the distillation token's where there is one."""

    @property
    def needs(self) -> Needs:
        return Needs(head=self.head, teacher_logits=True)

    def bind(self, student: Shapes, teacher: Shapes | None) -> Bound:
        return between_logits(hard_targets, student, teacher, head=self.head)


@dataclass(frozen=True, kw_only=True)
class BCETargets:
    """The teacher's probabilities, each class by itself; under mixing the teacher sees the mixed image."""

    paper: ClassVar[str] = "Beyer et al. 2020, arXiv:2006.07159 (sigmoid loss); Wightman et al. 2021, arXiv:2110.00476"
    functions: ClassVar[Functions] = (bce_targets,)

    weight: float = 1.0
    """Factor of this loss in the total."""
    schedule: Schedule = CONSTANT
    """How the weight changes over the run."""
    multi_label: bool = False
    """The teacher gives several labels an image: its probabilities are sigmoids, else a softmax."""
    head: Head = "auto"
    """The student's head that learns from the teacher: the distillation token's where there is one."""

    @property
    def needs(self) -> Needs:
        return Needs(head=self.head, teacher_logits=True)

    def bind(self, student: Shapes, teacher: Shapes | None) -> Bound:
        if self.multi_label and teacher is not None and teacher.log_probabilities:
            raise ValueError(
                "with multi_label it reads a sigmoid of each logit, but the teacher's are logarithms of a mean of "
                "softmaxes; use --teacher.average logits"
            )
        return between_logits(
            lambda s, t: bce_targets(s, t, multi_label=self.multi_label),
            student,
            teacher,
            head=self.head,
            at_least=1 if self.multi_label else 2,
        )


def between_logits(
    loss: Callable[..., Tensor],
    student: Shapes,
    teacher: Shapes | None,
    *,
    head: Head,
    labelled: bool = False,
    standardized: bool = False,
    at_least: int = 2,
) -> Bound:
    """Bind a function of logits s, t [B, K], and of labels where labelled, to one head of the student.

    standardized: both logits are standardised first. at_least: classes that it needs.
    """
    check_classes(student, teacher, at_least=at_least)
    read = logits_of(head, student)

    def bound(student: Outputs, teacher: Outputs | None, labels: Tensor | None) -> Tensor:
        assert teacher is not None
        s, t = read(student), teacher.logits
        if standardized:
            s, t = standardize(s), standardize(t)
        return loss(s, t, labels) if labelled else loss(s, t)

    return bound
