"""What a loss is: what it reads, and how it is told the shapes it will meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from students.outputs import Outputs, Shapes

if TYPE_CHECKING:
    from torch import Tensor

Head = Literal["auto", "class", "token"]
"""A student's head: the class token's, the distillation token's, or the latter where the student has one."""

Bound = Callable[[Outputs, Outputs | None, "Tensor | None"], "Tensor"]
"""(student, teacher, labels) -> an unweighted scalar. Labels are [B] class indices, [B, K] when mixed, or None."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a loss reads, so that a recipe is checked before anything is loaded."""

    head: Head | None = None
    labels: bool = False
    teacher: bool = True
    student_layers: tuple[int | float, ...] = ()
    teacher_layers: tuple[int | float, ...] = ()

    def reads(self) -> str:
        """The needs as a phrase for a person."""
        phrases = []
        if self.head:
            where = {"auto": "token or class", "class": "class", "token": "token"}[self.head]
            phrases.append(f"{where} logits" + (" against the teacher's" if self.teacher else ""))
        if self.student_layers:
            pairs = zip(self.student_layers, self.teacher_layers, strict=True)
            phrases.append("grids " + ", ".join(f"{s} ← {t}" for s, t in pairs))
        if self.labels:
            phrases.append("labels")
        return ", ".join(phrases)


class Loss(Protocol):
    """A frozen dataclass with a weight; `bind` tells it the shapes once and returns what computes it."""

    @property
    def weight(self) -> float: ...

    @property
    def needs(self) -> Needs: ...

    def bind(self, student: Shapes, teacher: Shapes | None) -> Bound:
        """The callable, an `nn.Module` if it has parameters. ValueError if the two models do not fit the loss."""
        ...


def reads_token(head: Head, student: Shapes) -> bool:
    """Whether `head` means the distillation token of this student. ValueError if it has none."""
    if head == "token" and not student.has_token:
        raise ValueError(
            "it reads the distillation token but the student has none; use --student.distilled, or head 'auto'"
        )
    return head != "class" and student.has_token


def check_classes(student: Shapes, teacher: Shapes | None) -> None:
    """ValueError unless both models' logits speak of the same number of classes."""
    if teacher is None:
        raise ValueError("it reads a teacher but the recipe has none; name one with teacher=Teacher(name=...)")
    if student.num_classes != teacher.num_classes:
        raise ValueError(
            f"student has {student.num_classes} classes but the teacher has {teacher.num_classes}; "
            "fit a head for your classes with --teacher.head fit, or name a teacher trained on them"
        )
