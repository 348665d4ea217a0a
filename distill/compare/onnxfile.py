"""A candidate from an ONNX file, its preprocessing read from the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.compare.candidate import Candidate
from distill.compare.options import OnnxInput
from distill.compare.terms import Terms
from students.preprocess import Preprocess


def onnx_candidate(file: Path, given: OnnxInput) -> Candidate:
    """The file's first output on its first input, on onnxruntime's CPU, in float32, with torch's number of threads.

    Its metadata may hold img_size, view_size (where images are cropped to another first), mean, std, crop_pct,
    crop_mode, interpolation and label_names, each as JSON.
    ValueError if the file is no ONNX, takes no images, or neither it nor `given` says how images are prepared.
    """
    session = open_session(file, torch.get_num_threads())
    (name, shape), output = _input(session, file), session.get_outputs()[0]
    said = _metadata(session, file)
    height, width = size = _size(said, shape, given, file)
    mean, std = (tuple(said.get(word) or getattr(given, word) or ()) for word in ("mean", "std"))
    if not mean or not std:
        raise ValueError(f"{file} does not say how images are normalised; give --onnx.mean and --onnx.std, or 0 and 1")
    if len(mean) != len(std) or (isinstance(shape[1], int) and shape[1] != len(mean)):
        raise ValueError(f"{file} takes {shape[1]} channels but mean and std have {len(mean)} and {len(std)} numbers")
    prepare = Preprocess(size, mean, std)
    view_height, view_width = said.get("view_size") or size
    terms = Terms(
        (view_height, view_width),
        len(mean),
        said.get("crop_pct", given.crop_pct),
        said.get("interpolation", given.interpolation),
        said.get("crop_mode", "center"),
    )
    run = _runner(session, name, output.name, shape[0])
    classes = run(prepare(torch.zeros(1, len(mean), height, width))).shape
    if len(classes) != 2 or classes[1] < 1:
        raise ValueError(f"{file} gives {list(classes)} for one image; let its first output be logits [B, K]")
    names = tuple(said.get("label_names") or ())
    if names and len(names) != classes[1]:
        raise ValueError(f"{file} names {len(names)} classes but gives {classes[1]} logits; export it again")
    return Candidate(
        role="model",
        name=file.name,
        source=str(file),
        params=_numbers(file),
        num_classes=classes[1],
        preprocess=terms,
        prepare=lambda views: prepare(views.cpu()),
        logits=lambda views: run(prepare(views.cpu())).to(views.device),
        forward=run,
        img_size=size,
        names=names,
        also_called=({name: index for index, name in enumerate(names)},) if names else (),
        file=file,
    )


def open_session(file: Path, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU, threads 0: a thread a core. ValueError if there is no such file or package."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed; pip install 'distill-vision[onnx]'") from None
    if not file.is_file():
        raise ValueError(f"there is no file {file}; name an ONNX file, a run folder or a student's")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a kind of its own for each of its states
        line = " ".join(str(error).split())[:200]
        raise ValueError(f"{file} cannot be read by onnxruntime ({line}); export it again") from None


def _input(session: Any, file: Path) -> tuple[str, list[Any]]:
    images = session.get_inputs()
    if len(images) != 1 or len(images[0].shape) != 4 or images[0].type != "tensor(float)":
        found = ", ".join(f"{one.name}: {one.type} {one.shape}" for one in images)
        raise ValueError(f"{file} takes {found}; let it take images, one float tensor [B, C, H, W]")
    return images[0].name, images[0].shape


def _metadata(session: Any, file: Path) -> dict[str, Any]:
    said = session.get_modelmeta().custom_metadata_map
    words = ("img_size", "view_size", "mean", "std", "crop_pct", "crop_mode", "interpolation", "label_names")
    try:
        return {word: json.loads(said[word]) for word in words if word in said}
    except ValueError as error:
        raise ValueError(f"the metadata of {file} is no JSON ({error}); export it again") from None


def _size(said: dict[str, Any], shape: list[Any], given: OnnxInput, file: Path) -> tuple[int, int]:
    fixed = tuple(shape[2:]) if all(isinstance(side, int) for side in shape[2:]) else None
    size = said.get("img_size") or fixed or given.img_size
    if size is None:
        raise ValueError(f"{file} takes images of any size and does not say which; give --onnx.img-size HEIGHT WIDTH")
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _runner(session: Any, name: str, output: str, batch: Any) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        if not isinstance(batch, int):
            return torch.from_numpy(session.run([output], {name: x.contiguous().numpy()})[0])
        # A file of a fixed batch: the last part is filled up, and what it says of the filling is left out.
        parts = []
        for part in x.split(batch):
            full = torch.cat([part, part[-1:].expand(batch - len(part), -1, -1, -1)]).contiguous()
            parts.append(torch.from_numpy(session.run([output], {name: full.numpy()})[0])[: len(part)])
        return torch.cat(parts)

    return run


def _numbers(file: Path) -> int:
    """Numbers in the file's float and 8-bit tensors, which are its weights."""
    import onnx

    kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    tensors = onnx.load(str(file), load_external_data=False).graph.initializer
    count = 0
    for tensor in tensors:
        size = 1
        for side in tensor.dims:
            size *= side
        count += size if tensor.data_type in kinds else 0
    return count
