"""The model through `torch.compile`: inductor, or TensorRT where torch_tensorrt is installed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from teachers.runtime.agreement import check
from teachers.runtime.cache import cache_folder
from teachers.runtime.contract import Answers, Core, UnsuitableError
from teachers.runtime.eager import eager
from teachers.runtime.folded import folded_core
from teachers.runtime.silence import first_line, silence

Backend = Literal["inductor", "tensorrt"]

TENSORRT_BATCH = 256  # the largest that an engine is built for; a larger batch goes through in parts
_WARM_UP = 16  # torch compiles anew from this batch on, where a CPU's convolutions change; it shall be at the start


class CompiledCore:
    """A model compiled for its layers at any batch size, in the precision of the autocast that it is called under."""

    def __init__(self, model: Core, layers: tuple[int, ...], backend: Backend, layout: torch.memory_format) -> None:
        self.layers = layers
        self.note = backend
        self._layout = layout
        self._largest = TENSORRT_BATCH if backend == "tensorrt" else None

        def run(x: Tensor) -> tuple[Tensor, ...]:
            logits, embedding, grids = eager(model, x, layers)
            return logits, embedding, *(grid.contiguous() for grid in grids.values())

        # A code object of its own: torch stops compiling one after eight graphs, over all teachers in the process.
        run.__code__ = run.__code__.replace()
        self._run = torch.compile(run, backend=backend, options=_options(backend))

    def __call__(self, x: Tensor) -> Answers:
        parts = [self._part(part) for part in x.split(self._largest or len(x))]
        logits, embedding, *grids = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        return logits, embedding, dict(zip(self.layers, grids, strict=True))

    def _part(self, x: Tensor) -> tuple[Tensor, ...]:
        alone = len(x) == 1
        if alone:  # torch compiles a batch of one for itself; two are there already
            x = x.expand(2, -1, -1, -1)
        x = x.contiguous(memory_format=self._layout)
        if self._largest:
            torch._dynamo.mark_dynamic(x, 0, min=2, max=self._largest)
        else:
            torch._dynamo.maybe_mark_dynamic(x, 0)
        answers = self._run(x)
        return tuple(answer[:1] for answer in answers) if alone else answers


def compiled_core(model: Any, x: Tensor, layers: tuple[int, ...], backend: Backend) -> CompiledCore:
    """The model as a `CompiledCore`, compiled now and checked on x against eager.

    x: normalised images [B >= 2, C, H, W]. UnsuitableError if it cannot be compiled here or differs from eager.
    """
    if backend == "tensorrt":
        if x.device.type != "cuda":
            raise UnsuitableError(f"the device is {x.device.type} and TensorRT is used on a GPU")
        import_module("torch_tensorrt")  # makes the backend known to torch
    try:
        with silence(), _kept_in(cache_folder() / "inductor"), torch.no_grad():
            # A CNN is compiled as it runs eagerly, for a compiler does not fold what it takes for parameters.
            folded = folded_core(model, x, layers)
            layout = torch.channels_last if folded else torch.contiguous_format
            core = CompiledCore(folded.model if folded else model, layers, backend, layout)
            core(x)
            core(x.repeat(-(-_WARM_UP // len(x)), 1, 1, 1))
    except Exception as error:  # a compiler raises its own kinds for what it cannot do
        raise UnsuitableError(f"it cannot be compiled: {first_line(error)}") from error
    check(core, model, x)
    return core


def _options(backend: Backend) -> dict[str, Any]:
    if backend == "inductor":
        return {}
    return {
        "cache_built_engines": True,
        "reuse_cached_engines": True,
        "engine_cache_dir": str(cache_folder() / "tensorrt"),
        "immutable_weights": False,  # a kept engine may meet other weights, so it has to take them
    }


@contextlib.contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """torch keeps what it compiles by content; in here it does so in this folder, unless the user has named one."""
    before = {name: os.environ.get(name) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")}
    named = before["TORCHINDUCTOR_CACHE_DIR"]
    # torch writes its default into the environment as soon as anything asks for it; that is nobody's choice.
    if not named or named.startswith(os.path.join(tempfile.gettempdir(), "torchinductor_")):
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
