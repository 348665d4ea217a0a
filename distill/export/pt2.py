"""torch.export's own file, what torch offers in TorchScript's place: `torch.export.load(FILE).module()` runs it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from distill.export.source import Source, check
from distill.export.torchscript import TOLD
from teachers.runtime.silence import silence


def write(source: Source, out: Path, *, normalize: bool) -> float:
    """Write the student to `out` once what is read back agrees with it, and return how far off it is."""
    module = source.module(normalize=normalize)
    told = {TOLD: json.dumps(source.told(normalize=normalize).metadata())}
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as aside, silence():
        file = Path(aside) / out.name
        with torch.no_grad():
            batch = {0: torch.export.Dim("batch")}
            program = torch.export.export(module, (source.images()[:2],), dynamic_shapes=(batch,))
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine
        torch.export.save(program, file, extra_files=told)
        off = check(torch.export.load(file).module(), source, "pt2", normalize=normalize)
        file.replace(out)
    return off
