"""ONNX: one file for onnxruntime and others, batch free, with how images are prepared in its metadata."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from distill.compare.onnxfile import open_session
from distill.export.source import Source, check
from teachers.runtime.silence import first_line, silence

LEAST_OPSET = 18
LARGEST_BYTES = 2**31 - 2**24
"""Of the weights in one file: a protobuf holds 2 GiB."""


def write(source: Source, out: Path, *, normalize: bool, opset: int) -> float:
    """Write the student to `out` once onnxruntime agrees with it, and return how far off it is (`source.check`).

    Input "images" [B, C, H, W], normalised or with `normalize` in 0..1; output "logits" [B, K], of a student with a
    distillation token the mean of both heads. ValueError if it cannot be exported or does not agree.
    """
    size = sum(weight.numel() * weight.element_size() for weight in source.student.parameters())
    if size > LARGEST_BYTES:
        raise ValueError(
            f"the weights of {source.folder} take {size / 1e9:.1f} GB and one ONNX file holds 2; use --to pt2"
        )
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as aside:
        file = Path(aside) / out.name
        _export(source, file, normalize=normalize, opset=opset)
        describe(file, source.told(normalize=normalize).metadata())
        off = check(_answers(file), source, "ONNX", normalize=normalize)
        file.replace(out)
    return off


def check_opset(opset: int) -> None:
    """ValueError for a version that PyTorch's exporter does not write, and leaves as another without a word."""
    from onnx.defs import onnx_opset_version

    if not LEAST_OPSET <= opset <= onnx_opset_version():
        raise ValueError(f"--opset is {opset}; use {LEAST_OPSET} to {onnx_opset_version()}")


def _answers(file: Path) -> Callable[[Tensor], Tensor]:
    session = open_session(file)
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.contiguous().numpy()})[0])


def _export(source: Source, file: Path, *, normalize: bool, opset: int) -> None:
    x = source.images()[:2]
    try:
        with silence(), torch.no_grad():
            torch.onnx.export(
                source.module(normalize=normalize),
                (x,),
                file,
                dynamo=True,
                external_data=False,
                opset_version=opset,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:  # the exporter raises its own kinds
        raise ValueError(f"the student cannot be written in opset {opset}: {first_line(error)}") from error


def describe(file: Path, metadata: dict[str, str]) -> None:
    """Put metadata into a file, and take out what the exporter noted of this machine: paths of source files."""
    import onnx

    model = onnx.load(file)
    for node in model.graph.node:
        del node.metadata_props[:]
    # Shapes noted for transposed weights are wrong and make quantisation fail; readers infer them.
    del model.graph.value_info[:]
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, kept | metadata)
    onnx.save(model, file)


def opset_of(file: Path) -> int:
    """The version of ONNX's own operators that a file uses."""
    import onnx

    return max(entry.version for entry in onnx.load(file, load_external_data=False).opset_import if not entry.domain)
