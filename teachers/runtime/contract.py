"""What a model must be able to do to teach, and what a runtime makes of it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

Answers = tuple[Tensor, Tensor, dict[int, Tensor]]
"""Logits [B, K], embedding [B, D] and by layer the grids [B, C, H, W], out of one pass."""


class Core(Protocol):
    """What a model must be able to do to teach; timm's classifiers are."""

    def forward_features(self, x: Tensor) -> Tensor: ...

    def forward_intermediates(self, x: Tensor, indices: list[int]) -> tuple[Tensor, list[Tensor]]: ...

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor: ...


class Runtime(Protocol):
    """A model made ready for one device, one precision and some layers.

    layers: rising, those whose grids it gives. note: what it is, in a few words.
    """

    layers: tuple[int, ...]
    note: str

    def __call__(self, x: Tensor) -> Answers:
        """Normalised images [B, C, H, W], B free, to the answers with the grids of all `layers`."""
        ...


class UnsuitableError(Exception):
    """A runtime that cannot run this model here; the message is the reason."""


def precision(device: torch.device) -> torch.dtype:
    """What a model computes in on this device here and now: the autocast's type, float32 outside of one."""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return torch.float32
