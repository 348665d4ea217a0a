"""Losses are computed in float32 or better, whatever precision the models run in."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or as it is when it is float64."""
    return x if x.dtype == torch.float64 else x.float()
