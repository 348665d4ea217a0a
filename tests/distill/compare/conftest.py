"""Models to compare that need no training: a run folder, its student's folder, ONNX files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill import Arrays, Optim, Recipe, Views, folder
from distill.losses import CrossEntropy, SoftTargets
from students import ViTConfig
from teachers import Teacher

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@pytest.fixture
def make_run(tmp_path, tiny_images, tiny_teacher):
    """Make a run folder with a random student, whose recipe is changed by keywords."""
    import torch

    import students

    def make(name: str, seed: int = 0, alone: bool = False, **changes: Any) -> Path:
        config = ViTConfig(img_size=28, patch_size=7, in_chans=1, num_classes=10, embed_dim=16, depth=2, num_heads=2)
        recipe = Recipe(
            student=config,
            teacher=Teacher(name=str(tiny_teacher), runtime="eager"),
            data=Arrays(path=str(tiny_images)),
            views=Views(crop_pct=1.0),
            losses={"labels": CrossEntropy(), "soft": SoftTargets()},
            optim=Optim(epochs=1, batch_size=64, warmup_epochs=0),
        )
        recipe = replace(recipe, **changes)
        out = tmp_path / name
        out.mkdir()
        folder.begin(out, recipe.without_teacher() if alone else recipe)
        torch.manual_seed(seed)
        model = recipe.student.build()
        torch.nn.init.normal_(model.get_parameter("head.weight"), std=0.5)
        students.save(model, out / "student", label_names=CLASSES, crop_pct=recipe.views.crop_pct)
        return out

    return make


@pytest.fixture
def make_onnx(tmp_path):
    """Make an ONNX file of a linear classifier on the mean of each channel, [B, 3, 4, 4] -> [B, K]."""

    def make(weight: np.ndarray, *, batch: int | str = "batch", **metadata: Any) -> Path:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        nodes = [
            helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        ]
        graph = helper.make_graph(
            nodes,
            "linear",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 4, 4])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, weight.shape[1]])],
            [numpy_helper.from_array(weight.astype(np.float32), "weight")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        for key, value in metadata.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, json.dumps(value)
        file = tmp_path / f"linear_{len(list(tmp_path.glob('*.onnx')))}.onnx"
        onnx.save(model, str(file))
        return file

    return make
