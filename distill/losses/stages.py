"""OFA: every stage of the student says what it thinks the class is, so models of any kind meet in logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from distill.losses.contract import (
    Functions,
    Head,
    Layer,
    Needs,
    check_classes,
    check_logits,
    check_positive,
    require_teacher,
)
from distill.losses.labels import target_class
from distill.losses.later import F
from distill.losses.precision import student_and_teacher
from distill.losses.schedule import CONSTANT, Schedule
from students.outputs import Shapes

if TYPE_CHECKING:
    from torch import Tensor

    from distill.losses.bound.stages import BoundOFA


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
    functions: ClassVar[Functions] = (ofa,)

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
        from distill.losses.bound.stages import BoundOFA

        return BoundOFA(self, student, require_teacher(teacher))
