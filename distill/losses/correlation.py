"""DIST: a student keeps its teacher's order of the classes and of the images, by correlation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from distill.losses.contract import (
    Bound,
    Functions,
    Head,
    Needs,
    check_factors,
    check_images,
    check_logits,
    check_positive,
)
from distill.losses.later import torch
from distill.losses.logits import between_logits
from distill.losses.precision import student_and_teacher
from distill.losses.processes import gathered
from distill.losses.schedule import CONSTANT, Schedule
from students.outputs import Shapes

if TYPE_CHECKING:
    from torch import Tensor

FLAT = 1e-3


@student_and_teacher
def dist(s: Tensor, t: Tensor, beta: float = 1.0, gamma: float = 1.0, tau: float = 1.0, gather: bool = False) -> Tensor:
    """τ²·[β·(1 - mean row Pearson) + γ·(1 - mean column Pearson)] of softmax(·/τ), of logits s, t [B, K].

    Huang et al. 2022 (arXiv:2205.10536), equations 8 to 10. Rows compare the classes of an image; columns compare the
    images of the batch in a class, so with γ above 0 the batch has to have two or more; two have a correlation of 1 or
    -1, and only three give it a gradient. A row or column that does not vary has correlation 0 with anything. gather:
    the batch is that of all processes.
    """
    check_positive(tau=tau)
    check_logits(s, t)
    if gather:
        s, t = gathered(s), gathered(t)
    if gamma:
        check_images(len(s), 2)
    p, q = (s / tau).softmax(-1), (t / tau).softmax(-1)
    rows, columns = pearson(p, q).mean(), pearson(p.T, q.T).mean()
    return (beta * (1 - rows) + gamma * (1 - columns)) * tau**2


def pearson(x: Tensor, y: Tensor, eps: float = 1e-8) -> Tensor:
    """Correlation of each row of x with that of y, [N, M], [N, M] -> [N].

    eps is added to the denominator, as the authors do. Variation under a thousandth of a row's size counts as that
    much: without it a constant row, such as a head that starts at zero gives, has a gradient 10⁸ times too large.
    """
    vector_norm = torch.linalg.vector_norm
    x_norm, y_norm = (vector_norm(z, dim=-1, keepdim=True).detach() for z in (x, y))
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    x_spread, y_spread = vector_norm(x, dim=-1, keepdim=True), vector_norm(y, dim=-1, keepdim=True)
    spread = x_spread.maximum(FLAT * x_norm) * y_spread.maximum(FLAT * y_norm)
    return ((x * y).sum(-1, keepdim=True) / (spread + eps)).squeeze(-1)


@dataclass(frozen=True, kw_only=True)
class DIST:
    """Correlation with the teacher's probabilities, class by class in an image and image by image in a class.

    It couples the images of a batch. It reads no label: under mixing the teacher sees the mixed image.
    """

    paper: ClassVar[str] = "Huang et al. 2022, arXiv:2205.10536"
    functions: ClassVar[Functions] = (dist,)

    weight: float = 2.0
    """Factor of this loss in the total; the authors give the labels 1."""
    schedule: Schedule = CONSTANT
    """How the weight changes over the run."""
    beta: float = 1.0
    """Factor of the correlation between the classes of an image."""
    gamma: float = 1.0
    """Factor of the correlation between the images in a class; above 0 it needs 2 images or more at once."""
    tau: float = 1.0
    """Softness of both distributions; the authors use 4 on CIFAR."""
    standardize: bool = False
    """Standardise both logits first (Sun et al. 2024)."""
    gather: bool = True
    """Compare the images of all processes, so that their number does not change the value."""
    head: Head = "auto"
    """The student's head that learns from the teacher: the distillation token's where there is one."""

    @property
    def needs(self) -> Needs:
        couples = self.gamma > 0
        return Needs(
            head=self.head,
            teacher_logits=True,
            images=2 if couples else 1,
            couples=couples,
            gathers=couples and self.gather,
        )

    def bind(self, student: Shapes, teacher: Shapes | None) -> Bound:
        check_positive(tau=self.tau)
        check_factors(beta=self.beta, gamma=self.gamma)
        options = {"beta": self.beta, "gamma": self.gamma, "tau": self.tau, "gather": self.needs.gathers}
        return between_logits(partial(dist, **options), student, teacher, head=self.head, standardized=self.standardize)
