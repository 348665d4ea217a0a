"""Which runtime a teacher gets: the one that was asked for, or the fastest that agrees with eager here."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from torch import Tensor, nn

from teachers.runtime.compiled import compiled_core
from teachers.runtime.contract import Runtime, UnsuitableError
from teachers.runtime.folded import folded_core
from teachers.runtime.onnx import onnx_core

if TYPE_CHECKING:
    from teachers.teacher import RuntimeName

_PACKAGES = {
    "onnxruntime": ("distill-vision[onnx]", ("onnx", "onnxscript", "onnxruntime")),
    "tensorrt": ("torch-tensorrt", ("torch_tensorrt",)),
}


def choose(
    asked: RuntimeName, model: nn.Module, x: Tensor, layers: tuple[int, ...], name: str
) -> tuple[Runtime | None, str]:
    """What runs the model from now on, None for plain eager, and a short line that says so and why.

    x: normalised images [B >= 2, C, H, W] on the device that it runs on, under the autocast that it will be called
    under; a fast runtime must agree with eager on them. layers: rising, those whose grids will be asked for.
    name: the teacher's. ValueError if a runtime that was asked for by name cannot run.
    """
    wanted = {"cpu": "onnxruntime", "cuda": "inductor"}.get(x.device.type, "eager") if asked == "auto" else asked
    reason = ""
    if wanted != "eager":
        try:
            fast = _fast(wanted, model, x, layers, name)
            return fast, fast.note
        except UnsuitableError as error:
            if asked != "auto":
                raise ValueError(
                    f"'{name}' cannot run on {asked}: {error}; use --teacher.runtime auto or eager"
                ) from error
            reason = f" ({error})"
    folded = folded_core(model, x, layers)
    return folded, (folded.note if folded else "eager") + reason


def check_installed(asked: RuntimeName) -> None:
    """ValueError if a runtime that was asked for by name lacks a package, with what to install."""
    missing = _missing(asked)
    if missing:
        raise ValueError(f"teacher.runtime {asked}: {missing}, or use --teacher.runtime auto or eager")


def _missing(runtime: str) -> str:
    install, needed = _PACKAGES.get(runtime, ("", ()))
    absent = next((package for package in needed if find_spec(package) is None), None)
    return f"{absent} is not installed; pip install '{install}'" if absent else ""


def _fast(wanted: str, model: nn.Module, x: Tensor, layers: tuple[int, ...], name: str) -> Runtime:
    missing = _missing(wanted)
    if missing:
        raise UnsuitableError(missing)
    if wanted == "onnxruntime":
        return onnx_core(model, x, layers, name)
    return compiled_core(model, x, layers, "tensorrt" if wanted == "tensorrt" else "inductor")
