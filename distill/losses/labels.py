"""The loss that reads labels and no teacher: cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F

from distill.losses.contract import Bound, Head, Needs, reads_token
from distill.losses.precision import at_least_float32
from students.outputs import Outputs, Shapes

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits [B, K] with labels [B], or with mixed labels [B, K] that sum to 1.

    smoothing moves that share of the target to the K classes evenly (Szegedy et al. 2016, section 7).
    """
    return F.cross_entropy(at_least_float32(logits), labels, label_smoothing=smoothing)


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Cross-entropy with the labels; mixed labels count by their shares."""

    weight: float = 1.0
    """Factor of this loss in the total."""
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
        token = reads_token(self.head, student)

        def loss(student: Outputs, teacher: Outputs | None, labels: Tensor | None) -> Tensor:
            logits = student.token_logits if token else student.logits
            assert logits is not None
            assert labels is not None
            return cross_entropy(logits, labels, smoothing=self.smoothing)

        return loss
