"""CRD: a student's embedding of an image is nearer to the teacher's of that image than to those of others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from distill.losses.contract import Functions, Layer, Needs, check_positive, require_teacher
from distill.losses.precision import at_least_float32
from distill.losses.schedule import CONSTANT, Schedule
from students.outputs import Shapes

if TYPE_CHECKING:
    from torch import Tensor

    from distill.losses.bound.contrast import BoundCRD

EPS = 1e-7


def crd(log_scores: Tensor, images: int) -> Tensor:
    """Noise-contrastive loss of scores [B, 1 + K], the match first, then K draws of `images` training images.

    Tian et al. 2020 (arXiv:1910.10699), equations 18 and 19, the mean over the batch: scores are exp(u·v / τ) / Z, and
    noise has probability 1 / images. They are given as logarithms, so that no temperature overflows.
    """
    log_scores = at_least_float32(log_scores)
    noise = (log_scores.shape[1] - 1) / images
    log_sums = log_scores.logaddexp(log_scores.new_tensor(math.log(noise + EPS)))  # log(score + noise + ε)
    right = log_scores[:, 0] - log_sums[:, 0]
    wrong = (math.log(noise) - log_sums[:, 1:]).sum(-1)
    return -(right + wrong).mean()


@dataclass(frozen=True, kw_only=True)
class CRD:
    """The student's embedding of an image finds the teacher's among those of other images, and the other way round.

    Both are projected to `dim` numbers of length 1 and compared with a memory of all training images that holds what
    they last were: two tables of images × dim, in the checkpoint, not exported. The memory couples the images of a
    run; every process keeps the same one. Reads no labels, but which image it is: a mixed image counts as the one in
    whose place it stands, whatever its share of it, so this loss is for views that are not mixed, or hardly.
    """

    paper: ClassVar[str] = "Tian et al. 2020, arXiv:1910.10699"
    functions: ClassVar[Functions] = (crd,)

    weight: float = 0.8
    """Factor of this loss in the total."""
    schedule: Schedule = CONSTANT
    """How the weight changes over the run."""
    negatives: int = 16_384
    """Images drawn from the memory for each image, anew each step."""
    temperature: float = 0.07
    """Softness τ of the scores."""
    momentum: float = 0.5
    """Share of the old entry that stays when an image is seen again."""
    dim: int = 128
    """Length of the projected embeddings."""
    layers: tuple[Layer, Layer] | None = None
    """Student layer, teacher layer, whose grids are averaged into embeddings; None: the models' own embeddings."""

    @property
    def needs(self) -> Needs:
        return Needs(
            embedding=self.layers is None,
            student_layers=self.layers[:1] if self.layers else (),
            teacher_layers=self.layers[1:] if self.layers else (),
            couples=True,
            gathers=True,
            address=True,
            remembers=True,
        )

    def bind(self, student: Shapes, teacher: Shapes | None, images: int) -> BoundCRD:
        check_positive(negatives=self.negatives, temperature=self.temperature, dim=self.dim)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; use a share of 0 or more and below 1")
        from distill.losses.bound.contrast import BoundCRD

        return BoundCRD(self, student, require_teacher(teacher), images)
