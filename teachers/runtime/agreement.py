"""Whether a runtime says what eager says, up to what the precision can carry."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from teachers.runtime.contract import Answers, Runtime, UnsuitableError, precision
from teachers.runtime.eager import eager

TOLERANCE = 1e-4  # of the largest number in a tensor; float32 in another order of sums stays below it
GPU_TOLERANCE = 5e-3  # a GPU's float32 may be TF32, which keeps 11 bits: ten such roundings
ROUNDINGS = 3.0  # times eager's own error in a lower precision; roundings in another order stay below it


def check(runtime: Runtime, model: Any, x: Tensor) -> None:
    """UnsuitableError if a runtime is too far from eager on x [B, C, H, W], or on its first image alone.

    Eager in float32 is what both are compared with. Off by TOLERANCE is allowed, or on a GPU GPU_TOLERANCE; under
    autocast also ROUNDINGS times what eager is off under it.
    """
    for batch in (x, x[:1]):
        allowed = GPU_TOLERANCE if x.is_cuda else TOLERANCE
        with torch.no_grad():
            with torch.autocast(x.device.type, enabled=False):
                exact = eager(model, batch, runtime.layers)
            if precision(x.device) != torch.float32:
                allowed = max(allowed, ROUNDINGS * deviation(eager(model, batch, runtime.layers), exact))
            off = deviation(runtime(batch), exact)
        if not off <= allowed:  # not-a-number is no agreement either
            raise UnsuitableError(f"it differs from eager by {off:.1e} of the largest number, over {allowed:.0e}")


def deviation(ours: Answers, theirs: Answers) -> float:
    """The largest difference in any of the tensors, as a share of the largest number in theirs; NaN if one is NaN."""
    pairs = [(ours[0], theirs[0]), (ours[1], theirs[1]), *((ours[2][layer], theirs[2][layer]) for layer in theirs[2])]
    shares = [
        (one.float() - other.float()).abs().max() / other.float().abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        for one, other in pairs
    ]
    return float(torch.stack(shares).max())  # torch's max hands a NaN on, Python's may drop it


def smooth_noise(channels: int) -> Tensor:
    """Views [3, channels, 8, 8] in 0..1, always the same; smooth once they are resized to a model's size."""
    return torch.rand(3, channels, 8, 8, generator=torch.Generator().manual_seed(0))
