"""TorchScript: one file that torch, also in C++, runs without this package. torch has deprecated it; see `pt2`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from distill.export.source import Source, check
from teachers.runtime.silence import silence

TOLD = "preparation.json"
"""The extra file that says how images are prepared."""


def write(source: Source, out: Path, *, normalize: bool) -> float:
    """Write the student to `out` once what is read back agrees with it, and return how far off it is."""
    module = source.module(normalize=normalize)
    told = {TOLD: json.dumps(source.told(normalize=normalize).metadata())}
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as aside, silence():
        file = Path(aside) / out.name
        with torch.no_grad():
            traced = torch.jit.trace(module, source.images()[:2], check_trace=False)
        torch.jit.save(traced, file, _extra_files=told)
        off = check(torch.jit.load(file), source, "TorchScript", normalize=normalize)
        file.replace(out)
    return off
