"""Cosine embedding: the student's projected embedding points where the teacher's does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from distill.losses.contract import Functions, Needs, check_same, require_teacher
from distill.losses.later import F
from distill.losses.pairs import NO_PAIRS, Pairs, layers_of
from distill.losses.precision import student_and_teacher
from distill.losses.schedule import CONSTANT, Schedule
from students.outputs import Shapes

if TYPE_CHECKING:
    from torch import Tensor

    from distill.losses.bound.embedding import BoundCosineEmbedding


@student_and_teacher
def cosine_embedding(es: Tensor, et: Tensor) -> Tensor:
    """1 - the mean over the batch of the cosine between two embeddings [B, D]. A vector of zeros has cosine 0."""
    check_same(es, et)
    return 1 - (F.normalize(es, dim=-1, eps=1e-4) * F.normalize(et, dim=-1, eps=1e-4)).sum(-1).mean()


@dataclass(frozen=True, kw_only=True)
class CosineEmbedding:
    """The student's embedding, projected, has the direction of the teacher's.

    Reads no labels: under mixing both models see the mixed image. A linear projection trains with the student and is
    not exported. The sum over the pairs, if any.
    """

    paper: ClassVar[str] = "Peng et al. 2022 (BEiT v2), arXiv:2208.06366"
    functions: ClassVar[Functions] = (cosine_embedding,)

    weight: float = 1.0
    """Factor of this loss in the total."""
    schedule: Schedule = CONSTANT
    """How the weight changes over the run."""
    pairs: Pairs = NO_PAIRS
    """Student layer, teacher layer, whose grids are averaged into embeddings; none: the models' own embeddings."""

    @property
    def needs(self) -> Needs:
        return Needs(
            embedding=not self.pairs,
            **layers_of(self.pairs),
        )

    def bind(self, student: Shapes, teacher: Shapes | None) -> BoundCosineEmbedding:
        from distill.losses.bound.embedding import BoundCosineEmbedding

        return BoundCosineEmbedding(self, student, require_teacher(teacher))
