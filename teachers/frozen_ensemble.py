"""The frozen ensemble: every member says something about the same views, and their mean answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self, cast

import torch
from torch import Tensor, nn

from students.outputs import Outputs, Shapes
from teachers.frozen import FrozenTeacher


class FrozenEnsemble(nn.Module):
    """Frozen teachers that answer as one, with the interface of `FrozenTeacher`.

    shares: of the members in the mean, summing to 1; of those with a share the classes must be equal in number, else
    ValueError. Layers are counted through the members: those of member 0, then those of member 1, …
    """

    def __init__(
        self,
        members: Sequence[FrozenTeacher],
        *,
        shares: Sequence[float],
        average: Literal["probabilities", "logits"] = "probabilities",
        draw: Literal["mean", "random"] = "mean",
    ) -> None:
        super().__init__()
        self.teachers = nn.ModuleList(members)
        self.shares, self.average, self.draw = tuple(shares), average, draw
        self.name = " + ".join(member.name for member in members)
        self.num_classes = _classes(members, shares)
        self.shapes = Shapes(
            num_classes=self.num_classes,
            has_token=False,
            embedding=members[0].shapes.embedding if draw == "mean" else 0,
            grids=dict(enumerate(grid for member in members for grid in member.shapes.grids.values())),
            members=tuple(member.shapes for member in members),
            log_probabilities=average == "probabilities",
        )
        super().train(False)

    @property
    def members(self) -> list[FrozenTeacher]:
        """The members in order."""
        return cast(list[FrozenTeacher], list(self.teachers))

    @property
    def runtime_note(self) -> str:
        """How each member runs, in a line."""
        return " + ".join(member.runtime_note for member in self.members)

    def train(self, mode: bool = True) -> Self:
        return super().train(False)  # a teacher never trains

    def start(self, device: torch.device, layers: Sequence[int] = (), views: Tensor | None = None) -> Self:
        """As `FrozenTeacher.start`, of every member for its own layers."""
        for member, asked in zip(self.members, split_layers(self.shapes, layers), strict=True):
            member.start(device, asked, views)
        return self

    @torch.no_grad()
    def forward(self, views: Tensor, layers: Sequence[int] = (), draw: int | None = None) -> Outputs:
        """Views [B, c, h, w], uint8 or float in 0..1, to logits [B, K], embedding [B, D] and grids of the layers.

        draw: the seed of this step's draw, for an ensemble that draws; none: all members answer. Members that are not
        needed do not run.
        """
        asked, answering = split_layers(self.shapes, layers), self._answering(draw)
        said: dict[int, Outputs] = {}
        for number, (member, its) in enumerate(zip(self.members, asked, strict=True)):
            if number in answering or its or (number == 0 and self.shapes.embedding):
                said[number] = member(views, its)
        grids = {
            self.shapes.first_layer(number) + layer: grid
            for number, outputs in said.items()
            for layer, grid in outputs.grids.items()
        }
        logits = self._mean({number: said[number].logits for number in answering})
        return Outputs(logits, None, said[0].embedding if self.shapes.embedding else None, grids)

    def num_params(self) -> int:
        """Parameters of all members, with fitted heads in the place of their own."""
        return sum(member.num_params() for member in self.members)

    def _answering(self, draw: int | None) -> list[int]:
        if self.draw == "random" and draw is not None:
            # On the CPU, so that processes on any devices draw the same.
            generator = torch.Generator().manual_seed(draw)
            return [int(torch.multinomial(torch.tensor(self.shares, dtype=torch.float64), 1, generator=generator))]
        return [number for number, share in enumerate(self.shares) if share]

    def _mean(self, logits: dict[int, Tensor]) -> Tensor:
        if len(logits) == 1:
            return next(iter(logits.values()))
        exact = {number: z if z.dtype == torch.float64 else z.float() for number, z in logits.items()}
        if self.average == "logits":
            return torch.stack([self.shares[number] * z for number, z in exact.items()]).sum(0)
        weighted = [math.log(self.shares[number]) + z.log_softmax(-1) for number, z in exact.items()]
        return torch.logsumexp(torch.stack(weighted), dim=0)


AnyFrozen = FrozenTeacher | FrozenEnsemble


def split_layers(shapes: Shapes, layers: Sequence[int]) -> list[tuple[int, ...]]:
    """An ensemble's layers -> each member's own. Of a single teacher, its layers. ValueError for one that is not."""
    indices = sorted(set(shapes.layers(layers)))
    if not shapes.members:
        return [tuple(indices)]
    split = []
    for number, member in enumerate(shapes.members):
        first = shapes.first_layer(number)
        split.append(tuple(index - first for index in indices if first <= index < first + len(member.grids)))
    return split


def _classes(members: Sequence[FrozenTeacher], shares: Sequence[float]) -> int:
    answering = [member for member, share in zip(members, shares, strict=True) if share]
    for member in answering[1:]:
        if member.num_classes != answering[0].num_classes:
            raise ValueError(
                f"'{answering[0].name}' answers with {answering[0].num_classes} classes but '{member.name}' with "
                f"{member.num_classes}; fit a head for either on your classes"
            )
    return answering[0].num_classes
