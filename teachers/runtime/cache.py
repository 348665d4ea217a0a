"""Where what was exported or compiled is kept, and what it is known by."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from torch import nn


def cache_folder() -> Path:
    """Where exported teachers lie: `$DISTILL_CACHE/teachers`, or `~/.cache/distill/teachers`."""
    return Path(os.environ.get("DISTILL_CACHE") or "~/.cache/distill").expanduser() / "teachers"


def weights_digest(model: nn.Module) -> str:
    """The sha256 of a model's weights and their names."""
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(f"{key} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
