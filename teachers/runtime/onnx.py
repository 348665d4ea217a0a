"""The model on onnxruntime: exported once, kept by content, in float32 on the CPU."""

from __future__ import annotations

import contextlib
import hashlib
import math
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from teachers.runtime.agreement import check
from teachers.runtime.cache import cache_folder, weights_digest
from teachers.runtime.contract import Answers, UnsuitableError, precision
from teachers.runtime.eager import eager
from teachers.runtime.silence import first_line, silence

PIXELS_AT_ONCE = 2**18
"""Of a batch; its images go through the model in parts of about so many, which is no slower and often faster.

The first layers of a CNN hold some 150 bytes a pixel, of a batch of 64 at 224 pixels 450 MiB, which would be kept.
"""


class OnnxCore:
    """A session of onnxruntime on the CPU, in float32, for the layers that it was exported with. file: what it runs."""

    note = "onnxruntime"

    def __init__(self, file: Path, layers: tuple[int, ...]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Between two batches of the teacher the same cores train the student; spinning threads would hold them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors only
        self.layers = layers
        self.file = file
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        # A batch of a new size is placed piece by piece, later ones in one block that is planned from it; without this
        # the pieces would be kept beside the block.
        self._shrinking = onnxruntime.RunOptions()
        self._shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._sizes: set[int] = set()

    def __call__(self, x: Tensor) -> Answers:
        parts = [self._part(part) for part in x.split(images_at_once(x))]
        if len(parts) == 1:
            return parts[0]
        logits, embeddings, grids = zip(*parts, strict=True)
        return torch.cat(logits), torch.cat(embeddings), {i: torch.cat([one[i] for one in grids]) for i in self.layers}

    def _part(self, x: Tensor) -> Answers:
        first = len(x) not in self._sizes
        self._sizes.add(len(x))
        inputs = {"x": x.contiguous().numpy()}
        logits, embedding, *grids = self._session.run(None, inputs, self._shrinking if first else None)
        named = zip(self.layers, grids, strict=True)
        return torch.from_numpy(logits), torch.from_numpy(embedding), {i: torch.from_numpy(grid) for i, grid in named}


def images_at_once(x: Tensor) -> int:
    """How many of images [B, C, H, W] go through the model together: the nearest power of two, at least one."""
    return 2 ** max(round(math.log2(PIXELS_AT_ONCE / (x.shape[-2] * x.shape[-1]))), 0)


def onnx_core(model: nn.Module, x: Tensor, layers: tuple[int, ...], name: str) -> OnnxCore:
    """The model as an `OnnxCore`, exported into the cache unless it is there, and checked on x against eager.

    x: normalised images [B >= 2, C, H, W]. The batch stays free, the size does not.
    UnsuitableError if x is not on the CPU in float32, or the model cannot be exported or differs from eager.
    """
    if x.device.type != "cpu":
        raise UnsuitableError(f"the device is {x.device.type} and onnxruntime is used on the CPU")
    if precision(x.device) != torch.float32:
        raise UnsuitableError("mixed precision is on and onnxruntime computes in float32")
    file = cache_folder() / f"{_fingerprint(model, x, layers, name)}.onnx"
    if file.is_file():
        with contextlib.suppress(Exception):  # a damaged or outdated file is made anew
            core = OnnxCore(file, layers)
            check(core, model, x)
            return core
    try:
        export(model, x, layers, file)
        core = OnnxCore(file, layers)
    except Exception as error:  # exporter and runtime raise their own kinds for what they cannot do
        raise UnsuitableError(f"the export failed with {first_line(error)}") from error
    check(core, model, x)
    return core


def export(model: nn.Module, x: Tensor, layers: tuple[int, ...], file: Path) -> None:
    """Write the model as ONNX: input "x", outputs logits, embedding and the layers' grids."""

    class Flat(nn.Module):  # exported graphs give tuples
        def __init__(self) -> None:
            super().__init__()
            self.model: Any = model

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            logits, embedding, grids = eager(self.model, x, layers)
            return logits, embedding, *grids.values()

    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as aside:
        written = Path(aside) / "teacher.onnx"
        with silence(), torch.no_grad():
            torch.onnx.export(
                Flat().eval(),
                (x[:2],),
                written,
                dynamo=True,
                external_data=False,
                input_names=["x"],
                dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
                verbose=False,
            )
        written.replace(file)  # whole or not at all, even when several processes write the same


def _fingerprint(model: nn.Module, x: Tensor, layers: Sequence[int], name: str) -> str:
    versions = [f"{package}={version(package)}" for package in ("torch", "timm", "onnx", "onnxscript")]
    parts = [name, list(layers), list(x.shape[1:]), versions, str(model), weights_digest(model)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()
