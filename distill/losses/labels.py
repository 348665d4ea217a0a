"""The loss that reads labels and no teacher, and what other losses make of mixed labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from distill.losses.contract import Bound, Functions, Head, Needs, logits_of
from distill.losses.later import F
from distill.losses.precision import at_least_float32
from distill.losses.schedule import CONSTANT, Schedule
from students.outputs import Outputs, Shapes

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits [B, K] with labels [B], or with mixed labels [B, K] that sum to 1.

    smoothing moves that share of the target to the K classes evenly (Szegedy et al. 2016, section 7).
    """
    return F.cross_entropy(at_least_float32(logits), labels, label_smoothing=smoothing)


def target_class(labels: Tensor) -> Tensor:
    """Labels [B], or mixed labels [B, K] -> [B], the class of the largest share."""
    return labels if labels.ndim == 1 else labels.argmax(-1)


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Cross-entropy with the labels; mixed labels count by their shares."""

    paper: ClassVar[str] = "Szegedy et al. 2016, arXiv:1512.00567 (smoothing)"
    functions: ClassVar[Functions] = (cross_entropy,)

    weight: float = 1.0
    """Factor of this loss in the total."""
    schedule: Schedule = CONSTANT
    """How the weight changes over the run."""
    smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    head: Head = "class"
    """The student's head that learns the labels."""

    @property
    def needs(self) -> Needs:
        return Needs(head=self.head, labels=True, teacher=False)

    def bind(self, student: Shapes, teacher: Shapes | None) -> Bound:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing is {self.smoothing}; use a share of 0 or more and below 1")
        read = logits_of(self.head, student)

        def loss(student: Outputs, teacher: Outputs | None, labels: Tensor | None) -> Tensor:
            assert labels is not None
            return cross_entropy(read(student), labels, smoothing=self.smoothing)

        return loss
