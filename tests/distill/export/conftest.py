"""A run folder with all that an export can get wrong: grey, not square, two heads, a report, names that are layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import students
from distill import Arrays, Optim, Recipe, Views, folder
from distill.export.source import Source, open_source
from distill.losses import CrossEntropy, SoftTargets
from students import ViTConfig
from teachers import Teacher

CLASSES = ("T-shirt|top", "<b>Trouser</b>", "Pull`over", "Dress", "Coat", "[Sandal]", "Shirt", "*Sneaker*", "Bag", "靴")
STUDENT = ViTConfig(
    img_size=(28, 20),
    patch_size=(7, 5),
    in_chans=1,
    num_classes=10,
    embed_dim=24,
    depth=2,
    num_heads=2,
    distilled=True,
    mean=(0.3,),
    std=(0.4,),
)


def report(name: str) -> dict:
    """A report of a student and its teacher, with figures that no other place has."""
    shared = {"top5": 0.9, "top5_interval": [0.85, 0.94], "nll": 1.0, "agreement": None, "kl": None, "images": 200}
    teacher = {"role": "teacher", "name": "the teacher", "top1": 0.8, "top1_interval": [0.74, 0.85], "kept": 1.0}
    student = {"role": "student", "name": name, "top1": 0.6125, "top1_interval": [0.54, 0.68], "kept": 0.7656}
    return {"models": [{**shared, **teacher, "params": 4_000_000}, {**shared, **student, "params": 20_000}]}


@pytest.fixture(scope="session")
def run(tmp_path_factory, tiny_images) -> Path:
    """runs/a_student in a folder of its own, with weights far from uniform answers."""
    out = tmp_path_factory.mktemp("home of somebody") / "runs" / "a_student"
    out.mkdir(parents=True)
    recipe = Recipe(
        student=STUDENT,
        teacher=Teacher(name=str(out.parent / "the | teacher"), head="own"),
        data=Arrays(path=str(tiny_images)),
        losses={"labels": CrossEntropy(weight=0.25), "soft": SoftTargets()},
        views=Views(crop_pct=0.9, interpolation="bilinear"),
        optim=Optim(epochs=3, batch_size=64, warmup_epochs=1),
    )
    folder.begin(out, recipe)
    torch.manual_seed(3)
    model = STUDENT.build()
    for head in ("head.weight", "head_dist.weight"):
        torch.nn.init.normal_(model.get_parameter(head), std=0.5)
    students.save(model, out / "student", label_names=CLASSES, crop_pct=0.9, interpolation="bilinear")
    (out / "report.json").write_text(json.dumps(report("a_student")))
    return out


@pytest.fixture(scope="session")
def classes() -> tuple[str, ...]:
    return CLASSES


@pytest.fixture(scope="session")
def source(run) -> Source:
    return open_source(run)


@pytest.fixture(scope="session")
def val_images(tiny_images) -> np.ndarray:
    """The validation images [200, 28, 28]."""
    with np.load(tiny_images) as file:
        return file["val_images"]
