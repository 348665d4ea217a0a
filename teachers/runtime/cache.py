"""Where what was exported or compiled is kept, and what it is known by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn


def cache_folder() -> Path:
    """Where exported teachers lie: `$DISTILL_CACHE/teachers`, or `~/.cache/distill/teachers`."""
    return Path(os.environ.get("DISTILL_CACHE") or "~/.cache/distill").expanduser() / "teachers"


@contextmanager
def borrowed_cache(aside: Path) -> Iterator[None]:
    """Within, the cache is one in the folder `aside`: it shows the exported teachers of the real one, and only reads.

    What is exported within lies in `aside`, and so do the files that compilers keep.
    """
    before, real = os.environ.get("DISTILL_CACHE"), cache_folder()
    os.environ["DISTILL_CACHE"] = str(aside / "cache")
    cache_folder().mkdir(parents=True, exist_ok=True)
    for exported in real.glob("*.onnx"):
        (cache_folder() / exported.name).symlink_to(exported.absolute())
    try:
        yield
    finally:
        os.environ.pop("DISTILL_CACHE")
        if before is not None:
            os.environ["DISTILL_CACHE"] = before


def weights_digest(model: nn.Module) -> str:
    """The sha256 of a model's weights and their names."""
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(f"{key} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
