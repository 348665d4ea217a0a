"""Pairs of layers: what a recipe calls them, which they are in two models, and how their grids are brought together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from distill.losses.contract import Layer
from distill.losses.later import F
from students.outputs import Outputs, Shapes

if TYPE_CHECKING:
    from torch import Tensor

Pairs = tuple[tuple[Layer, Layer], ...]
"""Student layer, teacher layer, of each pair."""

NO_PAIRS: Pairs = ()


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One layer of each model and its shape without the batch: (C, H, W) of a grid, (D,) of an embedding, (K,) of
    logits. A layer None is the embedding, or the logits. projection: what brings the student's to the teacher's.
    teacher_name: what a person calls the teacher's layer; its index where nothing is said.
    """

    student: int | None
    teacher: int | None
    student_shape: tuple[int, ...]
    teacher_shape: tuple[int, ...]
    projection: str = "none"
    matches_size: bool = True
    teacher_name: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) at which two grids meet: the smaller of the two."""
        return common_size(self.student_shape, self.teacher_shape)

    def columns(self) -> tuple[str, str, str, str]:
        """For a person: student layer and shape, teacher layer and shape, projection, resize."""
        student = _layer(self.student, self.student_shape, "embedding")
        teacher = _layer(
            self.teacher_name or self.teacher, self.teacher_shape, "embedding" if self.student is None else "logits"
        )
        return student, teacher, self.projection, self._resize()

    def _resize(self) -> str:
        if not self.matches_size or len(self.student_shape) < 3 or len(self.teacher_shape) < 3:
            return "none"
        shrunk = [
            f"{whose} to {'×'.join(map(str, self.size))}"
            for whose, shape in (("student", self.student_shape), ("teacher", self.teacher_shape))
            if shape[-2:] != self.size
        ]
        return ", ".join(shrunk) or "none"


def _layer(layer: int | str | None, shape: tuple[int, ...], otherwise: str) -> str:
    return f"{otherwise if layer is None else layer}: {'×'.join(map(str, shape))}"


class Layers(TypedDict):
    """The two fields of `Needs` that name layers."""

    student_layers: tuple[Layer, ...]
    teacher_layers: tuple[Layer, ...]


def layers_of(pairs: Pairs) -> Layers:
    """The layers that a loss on these pairs needs."""
    return {"student_layers": tuple(s for s, _ in pairs), "teacher_layers": tuple(t for _, t in pairs)}


def resolve(pairs: Pairs, student: Shapes, teacher: Shapes) -> list[Pair]:
    """The grids that pairs of names mean in two models. ValueError if there are none, or no such layers."""
    if not pairs:
        raise ValueError("it has no pairs; name at least one student layer and teacher layer, or use weight 0")
    found = []
    for of_student, of_teacher in pairs:
        s, t = grid_layer(student, of_student, "student"), grid_layer(teacher, of_teacher, "teacher")
        if any((pair.student, pair.teacher) == (s, t) for pair in found):
            raise ValueError(f"its pairs name student layer {s} with teacher layer {t} twice; leave one of them out")
        found.append(
            Pair(
                student=s,
                teacher=t,
                student_shape=student.grids[s],
                teacher_shape=teacher.grids[t],
                teacher_name=teacher.name_of(t),
            )
        )
    return found


def resolve_embeddings(pairs: Pairs, student: Shapes, teacher: Shapes) -> list[Pair]:
    """The vectors that are compared: the pooled grids of the pairs, or, where none is named, the two embeddings."""
    if pairs:
        return resolve(pairs, student, teacher)
    if not teacher.embedding:
        raise ValueError("it reads the teacher's embedding but this teacher hands out none; name layers instead")
    own = Pair(student=None, teacher=None, student_shape=(student.embedding,), teacher_shape=(teacher.embedding,))
    return [own]


def grid_layer(shapes: Shapes, layer: Layer, whose: str) -> int:
    """The index of a layer with a grid. ValueError, saying whose, if the model has no such layer."""
    if not shapes.grids:
        raise ValueError(f"it reads the {whose}'s grids but this model hands out none; use a loss on logits")
    try:
        return shapes.layer(layer)
    except ValueError as error:
        raise ValueError(f"in the {whose}, {error}") from None


def vector(outputs: Outputs, layer: int | None) -> Tensor:
    """The embedding [B, D] for None, else the mean over positions of a layer's grid [B, C]."""
    if layer is not None:
        return outputs.grids[layer].mean((2, 3))
    assert outputs.embedding is not None
    return outputs.embedding


def grids_of(pair: Pair, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """The two grids [B, C, H, W] of a pair of layers, at the sizes that they have."""
    assert pair.student is not None
    assert pair.teacher is not None
    return student.grids[pair.student], teacher.grids[pair.teacher]


def match_size(fs: Tensor, ft: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two grids [B, C, H, W] to one height and width, the smaller of the two, by averaging the larger down."""
    size = common_size(fs.shape, ft.shape)
    return _shrink(fs, size), _shrink(ft, size)


def common_size(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, int]:
    """The smaller height and the smaller width of two shapes that end in (H, W)."""
    return min(one[-2], other[-2]), min(one[-1], other[-1])


def _shrink(grid: Tensor, size: tuple[int, int]) -> Tensor:
    return grid if tuple(grid.shape[-2:]) == size else F.adaptive_avg_pool2d(grid, size)
