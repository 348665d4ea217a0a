"""What a loss is: what it reads, and how it is told the shapes it will meet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from students.outputs import Outputs, Shapes

if TYPE_CHECKING:
    from torch import Tensor

Head = Literal["auto", "class", "token"]
"""A student's head: the class token's, the distillation token's, or the latter where the student has one."""

Layer = int | float | str
"""A layer without knowing the model: a block or stage (3), from the end (-1), or a fraction of the depth (0.25).

A text is the name that the model gives a layer, or a layer of an ensemble's member: "1:-1".
"""

Bound = Callable[..., "Tensor"]
"""(student: Outputs, teacher: Outputs | None, labels) -> an unweighted scalar.

Labels are [B] class indices, [B, K] when mixed, or None. A loss that needs the address is given an `Address` too.
"""

Functions = tuple[Callable[..., Any], ...]
"""The functions on tensors that do a loss's arithmetic; not named as such, for tyro reads what a loss is made of."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where in the run the images of one process's batch stand.

    index: [B], of each image in the training set. start, total: place of the first among the images of the step, over
    all processes and accumulation steps, and their number. progress: share of the run that is done, 0 to 1. seed: of
    the draws of this step, the same on every process; what is drawn for image i of `total` is then the same however
    they are divided. draws: [B], the seeds by which the student drops parts of itself; none: torch's global state.
    """

    index: Tensor
    start: int
    total: int
    seed: int
    progress: float = 0.0
    draws: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a loss reads, so that a recipe is checked before anything is loaded.

    images: the fewest it can be computed on at once. couples: its value depends on which images are seen together;
    gathers: those of all processes are. address: `bind` is also told the number of training images, and the bound
    loss the `Address` of each batch. remembers: it keeps something of each image from step to step, so that a step may
    show an image once only.
    """

    head: Head | None = None
    labels: bool = False
    teacher: bool = True
    teacher_logits: bool = False
    embedding: bool = False
    student_layers: tuple[Layer, ...] = ()
    teacher_layers: tuple[Layer, ...] = ()
    images: int = 1
    couples: bool = False
    gathers: bool = False
    address: bool = False
    remembers: bool = False

    def reads(self, *, has_token: bool | None = None) -> str:
        """The needs as a phrase for a person. has_token: whether the student has a distillation token, if known."""
        phrases = []
        if self.head:
            auto = {None: "token or class", True: "token", False: "class"}[has_token]
            where = {"auto": auto, "class": "class", "token": "token"}[self.head]
            phrases.append(f"{where} logits" + (" against the teacher's" if self.teacher else ""))
        if self.embedding:
            phrases.append("embedding")
        if self.teacher_layers:
            pairs = zip(self.student_layers, self.teacher_layers, strict=True)
            phrases.append("grids " + ", ".join(f"{s} ← {t}" for s, t in pairs))
        elif self.student_layers:
            phrases.append("grids " + ", ".join(map(str, self.student_layers)) + " ← teacher's logits")
        if self.labels:
            phrases.append("labels")
        if self.couples:
            phrases.append("images of a batch together" + (", over all processes" if self.gathers else ""))
        return ", ".join(phrases)


class Loss(Protocol):
    """A frozen dataclass with a weight; `bind` tells it the shapes once and returns what computes it.

    It may have a `schedule` of its weight beside. A loss that needs the address is bound with
    `bind(student, teacher, images)`, images being the number of training images.
    """

    @property
    def weight(self) -> float: ...

    @property
    def needs(self) -> Needs: ...

    @property
    def bind(self) -> Callable[..., Any]:
        """(student: Shapes, teacher: Shapes | None) -> the callable, an `nn.Module` if it has parameters.

        ValueError if the two models do not fit the loss.
        """
        ...


def logits_of(head: Head, student: Shapes) -> Callable[[Outputs], Tensor]:
    """What reads one head's logits of this student. ValueError if it has no such head."""
    if head == "token" and not student.has_token:
        raise ValueError(
            "it reads the distillation token but the student has none; use --student.distilled, or head 'auto'"
        )
    token = head != "class" and student.has_token

    def read(outputs: Outputs) -> Tensor:
        logits = outputs.token_logits if token else outputs.logits
        assert logits is not None
        return logits

    return read


def require_teacher(teacher: Shapes | None) -> Shapes:
    """The teacher's shapes. ValueError if there is no teacher."""
    if teacher is None:
        raise ValueError("it reads a teacher but the recipe has none; name one with teacher=Teacher(name=...)")
    return teacher


def check_classes(student: Shapes, teacher: Shapes | None, *, at_least: int = 2) -> None:
    """ValueError unless both models' logits speak of the same classes, and of enough of them for the formula."""
    teacher = require_teacher(teacher)
    if student.num_classes != teacher.num_classes:
        of_several = "--teacher.members.N.head fit for each member N"
        ways = ["fit a head for your classes with " + (of_several if teacher.members else "--teacher.head fit")]
        if not (teacher.members or teacher.names):  # an ensemble and a module of one's own have no class maps
            ways.append("map the teacher's to yours with --teacher.class-map FILE")
        raise ValueError(
            f"student has {student.num_classes} classes but the teacher has {teacher.num_classes}; "
            f"{', '.join(ways)}, or name a teacher trained on them"
        )
    if student.num_classes < at_least:
        raise ValueError(
            f"it compares probabilities of classes and the student has {student.num_classes}; give it {at_least} or "
            "more, or use BCETargets(multi_label=True)"
        )


def check_positive(**values: float) -> None:
    """ValueError, with its name, for a value that is not above 0, or not finite."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; use a number above 0")


def check_factors(**values: float) -> None:
    """ValueError, with its name, for a factor below 0 or not finite, and if all of them are 0."""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value}; use 0 or more")
    if not any(values.values()):
        raise ValueError(f"{' and '.join(values)} are all 0; give one a factor, or the whole loss weight 0")


def check_logits(s: Tensor, t: Tensor, *, at_least: int = 1) -> None:
    """ValueError unless s and t are [B, K] of the same B and K; broadcast they would give a number without meaning."""
    if s.ndim != 2 or s.shape != t.shape or s.shape[1] < at_least:
        raise ValueError(
            f"logits are {list(s.shape)} and {list(t.shape)}; use two [B, K] of the same shape, K of {at_least} or more"
        )


def check_labels(s: Tensor, labels: Tensor) -> None:
    """ValueError unless labels are [B], or mixed [B, K], of the logits s [B, K]."""
    if labels.shape not in (s.shape[:1], s.shape):
        raise ValueError(f"labels are {list(labels.shape)} of logits {list(s.shape)}; use [B], or mixed [B, K]")


def check_same(fs: Tensor, ft: Tensor) -> None:
    """ValueError unless the two shapes are equal."""
    if fs.shape != ft.shape:
        raise ValueError(f"features are {list(fs.shape)} and {list(ft.shape)}; use two of the same shape")


def check_images(images: int, at_least: int) -> None:
    """ValueError if a loss that compares images was given too few of them."""
    if images < at_least:
        raise ValueError(
            f"it compares the images of a batch with each other and was given {images}; use batches of {at_least} or "
            "more"
        )
