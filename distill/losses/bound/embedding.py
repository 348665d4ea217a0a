"""The cosine embedding's projections."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from distill.losses.embedding import CosineEmbedding, cosine_embedding
from distill.losses.pairs import resolve_embeddings, vector
from distill.losses.precision import at_least_float32
from students.outputs import Outputs, Shapes


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
