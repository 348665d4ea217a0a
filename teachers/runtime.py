"""How the frozen model runs: eagerly, or through onnxruntime on a CPU once it has been checked against eager."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4  # of the largest number in a tensor; float32 in another order of sums stays below it


class Core(Protocol):
    """What a model must be able to do to teach; timm's classifiers are."""

    def forward_features(self, x: Tensor) -> Tensor: ...

    def forward_intermediates(self, x: Tensor, indices: list[int]) -> tuple[Tensor, list[Tensor]]: ...

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor: ...


class UnsuitableError(Exception):
    """A runtime that cannot run this model here; the message is the reason."""


def eager(model: Core, x: Tensor, layers: Sequence[int]) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """Normalised images [B, C, H, W] to logits [B, K], embedding [B, D] and grids [B, C, H, W], in one pass.

    layers: rising; the order in which timm gives them back.
    """
    if layers:
        features, grids = model.forward_intermediates(x, indices=list(layers))
    else:
        features, grids = model.forward_features(x), []
    embedding = model.forward_head(features, pre_logits=True)
    return model.forward_head(features), embedding, dict(zip(layers, grids, strict=True))


def smooth_noise(channels: int) -> Tensor:
    """Views [3, channels, 8, 8] in 0..1, always the same; smooth once they are resized to a model's size."""
    return torch.rand(3, channels, 8, 8, generator=torch.Generator().manual_seed(0))


class OnnxCore:
    """A session of onnxruntime on the CPU, in float32, for the layers that it was exported with.

    note: that it is used and where its file lies, in a line.
    """

    def __init__(self, file: Path, layers: tuple[int, ...]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Between two batches of the teacher the same cores train the student; spinning threads would hold them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors only
        self.layers = layers
        self.note = f"onnxruntime ({file})"
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """As `eager`, with the grids of all `layers`."""
        logits, embedding, *grids = self._session.run(None, {"x": x.contiguous().numpy()})
        named = zip(self.layers, grids, strict=True)
        return torch.from_numpy(logits), torch.from_numpy(embedding), {i: torch.from_numpy(grid) for i, grid in named}


def onnx_core(model: nn.Module, x: Tensor, layers: tuple[int, ...], name: str) -> OnnxCore:
    """The model as an `OnnxCore`, exported into the cache unless it is there, and checked on x against eager.

    x: normalised images [B >= 2, C, H, W]. The batch stays free, the size does not.
    UnsuitableError if it is not installed, cannot be exported, or differs from eager by more than TOLERANCE.
    """
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(needed) is None:
            raise UnsuitableError(f"{needed} is not installed; pip install 'distill-vision[onnx]'")
    file = cache_folder() / f"{_fingerprint(model, x, layers, name)}.onnx"
    if file.is_file():
        with contextlib.suppress(Exception):  # a damaged or outdated file is made anew
            core = OnnxCore(file, layers)
            _check(core, model, x)
            return core
    try:
        export(model, x, layers, file)
        core = OnnxCore(file, layers)
    except Exception as error:  # exporter and runtime raise their own kinds for what they cannot do
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UnsuitableError(f"the export failed with {type(error).__name__}: {reason}"[:300]) from error
    _check(core, model, x)
    return core


def cache_folder() -> Path:
    """Where exported teachers lie: `$DISTILL_CACHE/teachers`, or `~/.cache/distill/teachers`."""
    return Path(os.environ.get("DISTILL_CACHE") or "~/.cache/distill").expanduser() / "teachers"


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
        with _silence(), torch.no_grad():
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


def _check(core: OnnxCore, model: Any, x: Tensor) -> None:
    for batch in (x, x[:1]):
        with torch.no_grad():
            logits, embedding, grids = eager(model, batch, core.layers)
        answers = core(batch)
        pairs = [(logits, answers[0]), (embedding, answers[1]), *((grids[i], answers[2][i]) for i in core.layers)]
        off = max(float((ours - theirs).abs().max() / ours.abs().max()) for ours, theirs in pairs)
        if not off <= TOLERANCE:  # not-a-number is no agreement either
            raise UnsuitableError(f"it differs from eager by {off:.1e} of the largest number, over {TOLERANCE:.0e}")


def _fingerprint(model: nn.Module, x: Tensor, layers: Sequence[int], name: str) -> str:
    versions = [f"{package}={version(package)}" for package in ("torch", "timm", "onnx", "onnxscript")]
    parts = [name, list(layers), list(x.shape[1:]), versions, str(model), weights_digest(model)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def weights_digest(model: nn.Module) -> str:
    """The sha256 of a model's weights and their names."""
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(f"{key} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    before = logging.root.manager.disable
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        stack.callback(logging.disable, before)
        logging.disable(logging.ERROR)
        yield
