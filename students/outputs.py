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

    grids holds every layer of the model in order, 0 … depth - 1, as (C, H, W).
    """

    num_classes: int
    has_token: bool
    embedding: int
    grids: Mapping[int, tuple[int, int, int]]

    def layer(self, layer: int | float) -> int:
        """Resolve a layer's name to its index: a block (3), from the end (-1), or a fraction of the depth (0.25).

        A fraction f means the block after which f of the depth is done: 1.0 is the last, 0.25 of 12 is block 2.
        ValueError if the model has no such layer.
        """
        depth = len(self.grids)
        if isinstance(layer, float):
            if 0.0 < layer <= 1.0:
                return max(round(layer * depth), 1) - 1
            raise ValueError(f"layer {layer} is no fraction of the depth; use 0 < fraction <= 1, or a whole number")
        if -depth <= layer < depth:
            return layer % depth
        raise ValueError(f"there is no layer {layer}; it has {depth} layers, 0 to {depth - 1} (or -{depth} to -1)")

    def layers(self, layers: Sequence[int | float]) -> tuple[int, ...]:
        """`layer` of each."""
        return tuple(self.layer(layer) for layer in layers)
