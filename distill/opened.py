"""A saved model of any kind, opened: a run's student, a student's or a timm folder, an exported ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill import preparation
from distill.nearest import no_model
from distill.preparation import Preparation

if TYPE_CHECKING:
    import torch
    from torch import Tensor


TAKES = "a run folder such as runs/quickstart, a student's or a timm folder, or an .onnx file"


@dataclass(frozen=True, kw_only=True)
class Opened:
    """logits: views [B, C, h, w], as `preparation.transform` gives them, to logits [B, K] on the CPU."""

    preparation: Preparation
    logits: Callable[[Tensor], Tensor]


def open_model(place: Path, device: torch.device) -> Opened:
    """A model that answers with classes. ValueError if there is none."""
    opened = _onnx(place) if place.suffix.lower() == ".onnx" else _folder(place, device)
    if opened.preparation.num_classes == 0:
        raise ValueError(f"{place} has no head and so no classes; name a model that has")
    return opened


def _folder(place: Path, device: torch.device) -> Opened:
    if not place.is_dir():
        raise no_model(str(place), TAKES)
    folder = student_folder(place)
    told = preparation.of_folder(folder)
    if "student" in preparation.read_config(folder):
        import students

        model: Any = students.load(folder)
    else:
        from teachers import Teacher, source

        model = source.load(source.plan(Teacher(name=f"local-dir:{folder}")), pretrained=True)
    model = model.eval().to(device)
    preprocess = told.preprocess().to(device)
    return Opened(preparation=told, logits=lambda views: model(preprocess(views.to(device))).float().cpu())


def student_folder(place: Path) -> Path:
    """The folder of the model: of a run folder its student's. ValueError for a run without one."""
    if not (place / "recipe.json").is_file():
        return place
    if not (place / "student" / "config.json").is_file():
        raise ValueError(f"{place} has no student yet; run its recipe again to finish it")
    return place / "student"


def session(file: Path) -> Any:
    """An onnxruntime session on the CPU. ValueError if it is not installed, or the file is no ONNX model."""
    try:
        import onnxruntime
    except ImportError:
        raise ValueError("onnxruntime is not installed; pip install 'distill-vision[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    if not file.is_file():
        raise ValueError(f"there is no file {file}; name an ONNX file, a run folder or a student's")
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common kind
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise ValueError(
            f"{file} is no ONNX model that onnxruntime runs ({reason}); export the student again"
        ) from None


def answers(session: Any, x: Tensor) -> Tensor:
    """The first output of a session for its only input: x [B, C, H, W] -> logits [B, K]."""
    import torch

    name = session.get_inputs()[0].name
    return torch.from_numpy(session.run(None, {name: x.contiguous().numpy()})[0])


def _onnx(file: Path) -> Opened:
    opened = session(file)
    told = preparation.from_metadata(opened.get_modelmeta().custom_metadata_map, file)
    preprocess = told.preprocess()
    return Opened(preparation=told, logits=lambda views: answers(opened, preprocess(views)))
