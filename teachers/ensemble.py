"""Several teachers as one: whose answers count how much, and whose grids are called what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from teachers.custom import Custom
from teachers.teacher import Teacher

if TYPE_CHECKING:
    from students.outputs import Shapes
    from teachers.frozen_ensemble import FrozenEnsemble
    from teachers.head import Head

    Members = tuple[Teacher | Custom, ...]
else:
    Members = tuple[Any, ...]  # tyro takes each member's options from its own type only where the annotation is Any


@dataclass(frozen=True, init=False)
class Ensemble:
    """Several teachers that answer as one: `Ensemble(Teacher(...), Teacher(...), weights=(0.7, 0.3))`.

    Each member sees every view at its own size and with its own normalisation. Losses on logits get the members' mean.
    Losses on grids get one member's, by the layer's name: "1:-1" is layer -1 of member 1, "0:0.5" the middle of
    member 0; without a member, a fraction or a number from the end is the first member's. The embedding is the first
    member's. A member of weight 0 gives grids alone, and may have other classes or none.
    ValueError for fewer than two members, members that are ensembles, or weights that do not fit.
    """

    members: Members
    """The teachers; on the command line --teacher.members.0.name and so on."""

    weights: tuple[float, ...] | None = None
    """One a member, 0 or more, of which the shares are taken; none: all equal."""

    average: Literal["probabilities", "logits"] = "probabilities"
    """"probabilities": the logits are the logarithms of the weighted mean of the members' softmaxes, so a loss at
    temperature 1 gets exactly that mean, and at temperature T the mean p made softer, p^(1/T) over its sum, which is
    not the mean of softer members; "logits": the weighted mean of the logits, where every T softens alike."""

    draw: Literal["mean", "random"] = "mean"
    """"mean": all members answer; "random": in training one a step, drawn by the weights, the same on all processes
    and after a resume. Grids always come from the member that is named, and there is no embedding; validation and
    comparison take the mean."""

    def __init__(
        self,
        *teachers: Teacher | Custom,
        members: Sequence[Teacher | Custom] = (),
        weights: Sequence[float] | None = None,
        average: Literal["probabilities", "logits"] = "probabilities",
        draw: Literal["mean", "random"] = "mean",
    ) -> None:
        put = object.__setattr__  # the class is frozen
        put(self, "members", (*teachers, *members))
        put(self, "weights", None if weights is None else tuple(weights))
        put(self, "average", average)
        put(self, "draw", draw)
        _check(self)

    @property
    def name(self) -> str:
        """The members' names."""
        return " + ".join(member.name for member in self.members)

    @property
    def head(self) -> Literal["own", "fit"]:
        """ "fit" if a member's head is fitted; each member's is fitted on its own features."""
        return "fit" if any(member.head == "fit" for member in self.members) else "own"

    @property
    def shares(self) -> tuple[float, ...]:
        """The weights, made to sum to 1."""
        weights = self.weights or (1.0,) * len(self.members)
        return tuple(weight / sum(weights) for weight in weights)

    def shapes(self) -> Shapes:
        """The members' grids one member after another, the first member's embedding, the classes of those that answer.

        ValueError if members that answer with heads of their own do not speak of the same classes in one order.
        """
        from students.outputs import Shapes

        members = tuple(member.shapes() for member in self.members)
        own = [number for number in self._answering() if self.members[number].head == "own"]
        for number in own[1:]:
            one, other = members[own[0]].num_classes, members[number].num_classes
            if one != other:
                raise ValueError(
                    f"member 0 '{self.members[own[0]].name}' has {one} classes but member {number} "
                    f"'{self.members[number].name}' has {other}; use head 'fit' for either, or weight 0 for its grids"
                )
        self._check_names(own)
        return Shapes(
            num_classes=members[(own or self._answering())[0]].num_classes,
            has_token=False,
            embedding=members[0].embedding if self.draw == "mean" else 0,
            grids=dict(enumerate(grid for shapes in members for grid in shapes.grids.values())),
            members=members,
            log_probabilities=self.average == "probabilities",
        )

    def check_fit(self, shapes: Shapes, classes: int) -> None:
        """ValueError if a member that answers with a head of its own has other classes than those fitted for."""
        for number in self._answering():
            member, found = self.members[number], shapes.members[number].num_classes
            if member.head == "own" and found != classes:
                raise ValueError(
                    f"member {number} '{member.name}' has {found} classes but the data has {classes}; "
                    f"use --teacher.members.{number}.head fit"
                )

    def label_names(self) -> tuple[str, ...] | None:
        """The names of the K classes in the order of the logits, or None where no member's own head carries them."""
        named = (self.members[number].label_names() for number in self._answering())
        return next((names for names in named if names), None) if self.head == "own" else None

    def weights_source(self) -> str:
        """Where each member's weights come from, in a phrase."""
        return " + ".join(member.weights_source() for member in self.members)

    def weights_here(self) -> bool:
        """Whether every member's weights can be read without a network."""
        return all(member.weights_here() for member in self.members)

    def build(
        self, *, head: Sequence[Head | None] | None = None, layers: Sequence[int] = (), pretrained: bool = True
    ) -> FrozenEnsemble:
        """The frozen members on the CPU. head: one a member, a fitted head or None. layers: as `shapes` counts them."""
        from teachers.frozen_ensemble import FrozenEnsemble, split_layers

        heads, asked = head or (None,) * len(self.members), split_layers(self.shapes(), layers)
        return FrozenEnsemble(
            [
                member.build(head=own, layers=its, pretrained=pretrained)
                for member, own, its in zip(self.members, heads, asked, strict=True)
            ],
            shares=self.shares,
            average=self.average,
            draw=self.draw,
        )

    def _answering(self) -> list[int]:
        return [number for number, share in enumerate(self.shares) if share]

    def _check_names(self, own: Sequence[int]) -> None:
        named = [(number, names) for number in own if (names := self.members[number].label_names())]
        for number, names in named[1:]:
            first, known = named[0]
            for one, other in zip(known, names, strict=False):
                if one != other:
                    raise ValueError(
                        f"member {first} calls a class '{one}' where member {number} has '{other}'; "
                        "use head 'fit' for either"
                    )


AnyTeacher = Teacher | Custom | Ensemble


def members(teacher: AnyTeacher) -> tuple[Teacher | Custom, ...]:
    """The members of an ensemble, or the teacher alone."""
    return teacher.members if isinstance(teacher, Ensemble) else (teacher,)


def _check(ensemble: Ensemble) -> None:
    count, weights = len(ensemble.members), ensemble.weights
    if count < 2:
        raise ValueError(f"an ensemble has {count} members; give it two or more, or use the teacher alone")
    if any(isinstance(member, Teacher) and member.class_map for member in ensemble.members):
        raise ValueError(
            "a member of an ensemble has a class map, which one teacher alone can have; fit its head (head='fit'), or "
            "save it with your classes by python -m distill teacher fit"
        )
    if any(isinstance(member, Ensemble) for member in ensemble.members):
        raise ValueError("a member of an ensemble is an ensemble; name its members here, with their weights")
    if weights is not None and (
        len(weights) != count or not all(0 <= weight < math.inf for weight in weights) or not sum(weights)
    ):
        raise ValueError(f"weights of an ensemble of {count} are {weights}; give {count} of 0 or more, not all 0")
