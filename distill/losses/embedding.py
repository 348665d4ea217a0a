"""Cosine embedding: the student's projected embedding points where the teacher's does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.losses.contract import Needs, check_same, require_teacher
from distill.losses.pairs import NO_PAIRS, Pairs, layers_of, resolve_embeddings, vector
from distill.losses.precision import at_least_float32, student_and_teacher
from distill.losses.schedule import CONSTANT, Schedule
from students.outputs import Outputs, Shapes


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
    functions: ClassVar[tuple[Callable[..., Tensor], ...]] = (cosine_embedding,)

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
        return BoundCosineEmbedding(self, student, require_teacher(teacher))


class BoundCosineEmbedding(nn.Module):
    """A cosine embedding that knows its layers; holds one linear projection a pair."""

    def __init__(self, options: CosineEmbedding, student: Shapes, teacher: Shapes) -> None:
        super().__init__()
        pairs = resolve_embeddings(options.pairs, student, teacher)
        self.pairs = [replace(pair, projection="linear", matches_size=False) for pair in pairs]
        self.projections = nn.ModuleList(nn.Linear(pair.student_shape[0], pair.teacher_shape[0]) for pair in self.pairs)

    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor | None) -> Tensor:
        assert teacher is not None
        terms = []
        for pair, project in zip(self.pairs, self.projections, strict=True):
            es = project(at_least_float32(vector(student, pair.student)))
            terms.append(cosine_embedding(es, vector(teacher, pair.teacher)))
        return torch.stack(terms).sum()
