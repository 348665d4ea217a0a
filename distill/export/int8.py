"""An ONNX file with weights of 8 bits, and what that costs in accuracy on the run's own validation images."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from distill.compare.onnxfile import onnx_candidate
from distill.compare.options import OnnxInput
from distill.console import Console
from distill.data import Images
from distill.evaluate import Score, score
from distill.export.onnx import describe
from distill.export.source import Source
from distill.folder import read_recipe
from distill.loader import default_workers, in_order
from teachers.runtime.silence import silence

BATCH_SIZE = 64


def validation_images(source: Source) -> Images:
    """The images that the run was validated on. ValueError if the student lies in no run folder."""
    if source.run is None:
        raise ValueError(
            f"--int8 measures what it costs on the run's validation images, and {source.folder} is in no run folder; "
            "name a run folder, or leave --int8 out"
        )
    return read_recipe(source.run).data.val()


def write(exact: Path, out: Path, images: Images, console: Console) -> dict[str, Score]:
    """Quantise the ONNX file `exact` into `out`, and return the scores of both: "float" and "int8".

    Matrices of weights become int8, one scale a column; what is multiplied with them is rounded to 8 bits as it comes
    (dynamic quantisation), by the range of the whole batch: what it says of an image depends, a little, on the others.
    The patch embedding, norms and softmax stay in float. The scores, in batches of 64, are in the metadata too.
    """
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as aside:
        file = Path(aside) / out.name
        with silence():
            quantize_dynamic(exact, file, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"])
        scores = _measure(exact, file, images, console)
        describe(file, {"scores": json.dumps({name: asdict(result) for name, result in scores.items()})})
        file.replace(out)
    return scores


def _measure(exact: Path, file: Path, images: Images, console: Console) -> dict[str, Score]:
    device = torch.device("cpu")
    models = {"float": onnx_candidate(exact, OnnxInput()), "int8": onnx_candidate(file, OnnxInput())}
    with console.counting("float and int8", len(images)) as counter:
        return score(
            {name: model.logits for name, model in models.items()},
            in_order(images, models["float"].preprocess, batch_size=BATCH_SIZE, workers=default_workers(1)),
            device=device,
            total=len(images),
            reference={"int8": "float"},
            advance=counter.advance,
        )
