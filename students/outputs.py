"""What a model says about a batch of images, and the shapes of it before there is a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Outputs:
    """What any model, student or teacher, says about a batch of B images.

    logits: [B, K] of the class head (the mean of both heads is what a student called on images returns).
    token_logits: [B, K] of the distillation token's head, or None.
    embedding: [B, D], pooled, before the head, or None.
    grids: layer -> [B, C, H, W], for the layers that were asked for.
    """

    logits: Tensor
    token_logits: Tensor | None = None
    embedding: Tensor | None = None
    grids: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Shapes:
    """The shapes of a model's `Outputs` without the batch, known before any weight is loaded.

    grids holds every layer of the model in order, 0 … depth - 1, as (C, H, W). embedding is 0 where there is none.
    names: of the layers, for a model that names them. members: of an ensemble, whose grids are the members' one member
    after another. log_probabilities: the logits are logarithms of probabilities that sum to 1.
    """

    num_classes: int
    has_token: bool
    embedding: int
    grids: Mapping[int, tuple[int, int, int]]
    names: tuple[str, ...] = ()
    members: tuple[Shapes, ...] = ()
    log_probabilities: bool = False

    def layer(self, layer: int | float | str) -> int:
        """Resolve a layer's name to its index: a block (3), from the end (-1), or a fraction of the depth (0.25).

        A fraction f means the block after which f of the depth is done: 1.0 is the last, 0.25 of 12 is block 2.
        A word is the name that the model gives a layer ("layer3"). Of an ensemble "1:-1" is layer -1 of member 1;
        without a member, a fraction, a word and a number from the end are the first member's, and another number
        counts through the layers of all members. ValueError if the model has no such layer.
        """
        if isinstance(layer, str):
            return self._named(layer)
        if self.members and (isinstance(layer, float) or layer < 0):
            return self.members[0].layer(layer)
        depth = len(self.grids)
        if not depth:
            raise ValueError(f"there is no layer {layer}; this model hands out no grids of its layers")
        if isinstance(layer, float):
            if 0.0 < layer <= 1.0:
                return max(round(layer * depth), 1) - 1
            raise ValueError(f"layer {layer} is no fraction of the depth; use 0 < fraction <= 1, or a whole number")
        if -depth <= layer < depth:
            return layer % depth
        raise ValueError(f"there is no layer {layer}; it has {depth} layers, 0 to {depth - 1} (or -{depth} to -1)")

    def layers(self, layers: Sequence[int | float | str]) -> tuple[int, ...]:
        """`layer` of each."""
        return tuple(self.layer(layer) for layer in layers)

    def name_of(self, layer: int) -> str:
        """What a person calls the layer of that index: "3", "layer3", or "1:3" in an ensemble."""
        for number, shapes in reversed(tuple(enumerate(self.members))):
            if layer >= (first := self.first_layer(number)):
                return f"{number}:{shapes.name_of(layer - first)}"
        return self.names[layer] if self.names else str(layer)

    def first_layer(self, member: int) -> int:
        """The index of a member's layer 0 among the layers of the ensemble."""
        return sum(len(shapes.grids) for shapes in self.members[:member])

    def _named(self, layer: str) -> int:
        if self.members:
            member, colon, name = layer.partition(":")
            if not colon:
                return self.members[0].layer(layer)
            if not (member.isdecimal() and int(member) < len(self.members)):
                raise ValueError(
                    f"layer '{layer}' is of no member; name it as MEMBER:LAYER, such as '1:-1', "
                    f"of members 0 to {len(self.members) - 1}"
                )
            try:
                return self.first_layer(int(member)) + self.members[int(member)].layer(_number(name))
            except ValueError as error:
                raise ValueError(f"in member {member}, {error}") from None
        if layer in self.names:
            return self.names.index(layer)
        known = f"it names {', '.join(self.names)}" if self.names else "use a number, such as -1 or 0.5"
        raise ValueError(f"there is no layer '{layer}'; {known}")


def _number(name: str) -> int | float | str:
    """What a layer's name in a text means: 3, 0.25, or a word."""
    for kind in (int, float):
        try:
            return kind(name)
        except ValueError:
            continue
    return name
