"""Losses that treat the target class and the other classes apart: DKD and NKD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from distill.losses.contract import (
    Bound,
    Functions,
    Head,
    Needs,
    check_factors,
    check_labels,
    check_logits,
    check_positive,
)
from distill.losses.labels import target_class
from distill.losses.later import torch
from distill.losses.logits import between_logits, soft_targets
from distill.losses.precision import student_and_teacher
from distill.losses.schedule import CONSTANT, Schedule
from students.outputs import Shapes

if TYPE_CHECKING:
    from torch import Tensor


@student_and_teacher
def dkd(
    s: Tensor, t: Tensor, labels: Tensor, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0
) -> Tensor:
    """(α·TCKD + β·NCKD)·T², the mean over the batch, of logits s, t [B, K] and labels [B], or [B, K] when mixed.

    Zhao et al. 2022 (arXiv:2203.08679), equation 7. TCKD is the KL divergence of (target, all the others), NCKD that
    among the others, which is 0 for K = 2. Of mixed labels the largest share is the target. Logarithms are taken of
    sums of exponentials, so that a confident disagreement stays finite.
    """
    check_positive(temperature=temperature)
    check_logits(s, t, at_least=2)
    check_labels(s, labels)
    target = target_class(labels)
    own, others = _apart(s / temperature, target)
    own_t, others_t = _apart(t / temperature, target)
    tckd = soft_targets(_against(own, others), _against(own_t, others_t), temperature=1.0)
    nckd = soft_targets(others, others_t, temperature=1.0)
    return (alpha * tckd + beta * nckd) * temperature**2


@student_and_teacher
def nkd(s: Tensor, t: Tensor, labels: Tensor, gamma: float = 1.5, temperature: float = 1.0) -> Tensor:
    """-mean(t_y·log s_y) - γT²·mean Σ_{k≠y} t̂_k·log ŝ_k, of logits s, t [B, K] and labels [B], or [B, K] when mixed.

    Yang et al. 2023 (arXiv:2303.13005), equation 8; t̂, ŝ are the softmax at temperature T over the classes other than
    the target y. Both terms are cross-entropies, so the floor is not 0. Of mixed labels the largest share is y.
    """
    check_positive(temperature=temperature)
    check_logits(s, t, at_least=2)
    check_labels(s, labels)
    target = target_class(labels)
    at_target = target.unsqueeze(1)
    of_target = -(t.softmax(-1).gather(1, at_target) * s.log_softmax(-1).gather(1, at_target)).mean()
    _, others = _apart(s / temperature, target)
    _, others_t = _apart(t / temperature, target)
    of_others = -(others_t.softmax(-1) * others.log_softmax(-1)).sum(-1).mean()
    return of_target + gamma * temperature**2 * of_others


def _apart(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, K], target [B] -> the target's [B] and the others' [B, K - 1]."""
    classes = torch.arange(logits.shape[-1] - 1, device=logits.device)
    others = classes + (classes >= target.unsqueeze(1))  # [B, K - 1]: every class but the target
    return logits.gather(1, target.unsqueeze(1)).squeeze(1), logits.gather(1, others)


def _against(own: Tensor, others: Tensor) -> Tensor:
    """[B], [B, K - 1] -> [B, 2], logits of the target against all the others together."""
    return torch.stack([own, others.logsumexp(-1)], dim=-1)


WARMUP = Schedule(name="warmup", over=0.083)


@dataclass(frozen=True, kw_only=True)
class DKD:
    """Decoupled distillation: the target class against the others, and the others among themselves.

    Of mixed labels the class of the largest share is the target. The authors warm the weight up over the first 20 of
    240 epochs, which is this schedule; on ImageNet they use beta 0.5 and temperature 1.
    """

    paper: ClassVar[str] = "Zhao et al. 2022, arXiv:2203.08679"
    functions: ClassVar[Functions] = (dkd,)

    weight: float = 1.0
    """Factor of this loss in the total."""
    schedule: Schedule = WARMUP
    """How the weight changes over the run."""
    alpha: float = 1.0
    """Factor of the target class against the others."""
    beta: float = 8.0
    """Factor of the others among themselves."""
    temperature: float = 4.0
    """Softness T of both distributions."""
    standardize: bool = False
    """Standardise both logits first (Sun et al. 2024)."""
    head: Head = "auto"
    """The student's head that learns from the teacher: the distillation token's where there is one."""

    @property
    def needs(self) -> Needs:
        return Needs(head=self.head, labels=True, teacher_logits=True)

    def bind(self, student: Shapes, teacher: Shapes | None) -> Bound:
        check_positive(temperature=self.temperature)
        check_factors(alpha=self.alpha, beta=self.beta)
        options = {"alpha": self.alpha, "beta": self.beta, "temperature": self.temperature}
        return between_logits(
            lambda s, t, y: dkd(s, t, y, **options),
            student,
            teacher,
            head=self.head,
            labelled=True,
            standardized=self.standardize,
        )


@dataclass(frozen=True, kw_only=True)
class NKD:
    """Normalised distillation: the teacher's confidence in the target, and its order of the other classes.

    Of mixed labels the class of the largest share is the target. It is a cross-entropy: its floor is not 0.
    """

    paper: ClassVar[str] = "Yang et al. 2023, arXiv:2303.13005"
    functions: ClassVar[Functions] = (nkd,)

    weight: float = 1.0
    """Factor of this loss in the total."""
    schedule: Schedule = CONSTANT
    """How the weight changes over the run."""
    gamma: float = 1.5
    """Factor of the classes other than the target."""
    temperature: float = 1.0
    """Softness T of the distributions over the classes other than the target."""
    standardize: bool = False
    """Standardise both logits first (Sun et al. 2024)."""
    head: Head = "auto"
    """The student's head that learns from the teacher: the distillation token's where there is one."""

    @property
    def needs(self) -> Needs:
        return Needs(head=self.head, labels=True, teacher_logits=True)

    def bind(self, student: Shapes, teacher: Shapes | None) -> Bound:
        check_positive(temperature=self.temperature)
        check_factors(gamma=self.gamma, target=1.0)
        options = {"gamma": self.gamma, "temperature": self.temperature}
        return between_logits(
            lambda s, t, y: nkd(s, t, y, **options),
            student,
            teacher,
            head=self.head,
            labelled=True,
            standardized=self.standardize,
        )
