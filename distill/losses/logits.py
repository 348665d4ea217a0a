"""Losses between the logits of a student and of its teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F

from distill.losses.contract import Bound, Head, Needs, check_classes, reads_token
from distill.losses.precision import at_least_float32
from students.outputs import Outputs, Shapes

if TYPE_CHECKING:
    from torch import Tensor


def soft_targets(s: Tensor, t: Tensor, *, temperature: float = 4.0) -> Tensor:
    """T² · mean over the batch of KL(softmax(t/T) ‖ softmax(s/T)), of logits s, t [B, K].

    Hinton et al. 2015 (arXiv:1503.02531), section 2. T² keeps the gradient's size when T changes. The sum runs over
    classes and the mean over images: dividing by B·K instead, as DeiT's code does, makes the value K times smaller.
    """
    log_s = F.log_softmax(at_least_float32(s) / temperature, dim=-1)
    log_t = F.log_softmax(at_least_float32(t.detach()) / temperature, dim=-1)
    return F.kl_div(log_s, log_t, reduction="batchmean", log_target=True) * temperature**2


def hard_targets(s: Tensor, t: Tensor) -> Tensor:
    """Cross-entropy of student logits s [B, K] with the teacher's decisions argmax t, t [B, K].

    Touvron et al. 2021 (DeiT, arXiv:2012.12877), equation 3. The teacher's decision is never smoothed.
    """
    return F.cross_entropy(at_least_float32(s), t.detach().argmax(-1))


@dataclass(frozen=True, kw_only=True)
class SoftTargets:
    """The teacher's softened probabilities (Hinton et al. 2015); under mixing the teacher sees the mixed image."""

    weight: float = 1.0
    """Factor of this loss in the total."""
    temperature: float = 4.0
    """Softness T of both distributions: 4 is usual on small data, 1 without labels (Beyer et al. 2022)."""
    head: Head = "auto"
    """The student's head that learns from the teacher: the distillation token's where there is one."""

    @property
    def needs(self) -> Needs:
        return Needs(head=self.head)

    def bind(self, student: Shapes, teacher: Shapes | None) -> Bound:
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; use a number above 0")
        return between_logits(
            lambda s, t: soft_targets(s, t, temperature=self.temperature), self.head, student, teacher
        )


@dataclass(frozen=True, kw_only=True)
class HardTargets:
    """The teacher's decisions as labels (DeiT 2021); under mixing the teacher decides on the mixed image."""

    weight: float = 0.5
    """Factor of this loss in the total; DeiT gives the labels the other half."""
    head: Head = "auto"
    """The student's head that learns from the teacher: the distillation token's where there is one."""

    @property
    def needs(self) -> Needs:
        return Needs(head=self.head)

    def bind(self, student: Shapes, teacher: Shapes | None) -> Bound:
        return between_logits(hard_targets, self.head, student, teacher)


def between_logits(
    loss: Callable[[Tensor, Tensor], Tensor], head: Head, student: Shapes, teacher: Shapes | None
) -> Bound:
    """Bind a function of logits s, t [B, K] to one head of the student."""
    check_classes(student, teacher)
    token = reads_token(head, student)

    def bound(student: Outputs, teacher: Outputs | None, labels: Tensor | None) -> Tensor:
        logits = student.token_logits if token else student.logits
        assert logits is not None
        assert teacher is not None
        return loss(logits, teacher.logits)

    return bound
