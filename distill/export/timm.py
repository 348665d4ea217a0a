"""A folder that timm loads strictly as the student, with equal outputs."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import students
from distill.export.source import Source, check
from distill.preparation import read_config
from students.folder import CONFIG, WEIGHTS

FILES = (CONFIG, WEIGHTS)


def write(source: Source, out: Path) -> float:
    """Write the folder `out` once timm's model agrees with the student, and return how far off it is.

    ValueError if timm has no words for the student.
    """
    check_folder(out, FILES)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as aside:
        folder = Path(aside) / "student"
        off = save(source, folder)
        place(folder, out, FILES)
    return off


def save(source: Source, folder: Path) -> float:
    """Write config.json and the weights into a new folder, checked against timm; returns how far off timm is."""
    import timm

    told = source.preparation
    students.save(
        source.student,
        folder,
        label_names=told.label_names,
        crop_pct=told.crop_pct,
        interpolation=told.interpolation,
        view_size=told.view_size,
    )
    config = read_config(folder)
    if told.crop_mode != "center":  # of a model that timm trained
        config["pretrained_cfg"]["crop_mode"] = told.crop_mode
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if config["architecture"] == "students.ViT":
        raise ValueError(
            f"timm has no words for the student in {source.folder} (qk_scale, representation_size, or a distillation "
            "token without a class token or with averaging); use --to onnx or pt2"
        )
    return check(timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), source, "timm")


def check_folder(out: Path, ours: tuple[str, ...]) -> None:
    """ValueError unless a folder is new, or holds only what an export put there."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder with --out")
    if out.is_dir():
        others = sorted(entry.name for entry in out.iterdir() if entry.name not in ours)
        if others:
            raise ValueError(f"{out} holds {others[0]}, which is no export of ours; choose another with --out")


def place(folder: Path, out: Path, files: tuple[str, ...]) -> None:
    """Move the files of a folder into `out`, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    for name in files:
        os.replace(folder / name, out / name)
