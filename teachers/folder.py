"""A teacher on disk: timm's local folder of any timm model, `config.json` and `model.safetensors`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from teachers import source
from teachers.runtime.agreement import TOLERANCE

# What describes the weights whatever they were fine-tuned on. Where they lie, and the names of the classes that they
# had, do not; timm's other words would tell it to convert weights that are its own already.
KEPT = ("input_size", "fixed_input_size", "crop_mode", "first_conv", "classifier", "license")


def save(
    model: Any,
    folder: Path,
    plan: source.Plan,
    x: torch.Tensor,
    *,
    label_names: Sequence[str],
    crop_pct: float,
    interpolation: str,
) -> None:
    """Write a model that was made by `plan` so that timm.create_model("local-dir:FOLDER", pretrained=True) gives it.

    model: in eval mode on the CPU, with one class for each of label_names; the plan's size becomes its own size.
    x: normalised images [B, C, H, W] on which what timm loads has to give equal logits.
    crop_pct, interpolation: how images are prepared, in timm's words. Files of other names in the folder stay.
    ValueError if timm cannot rebuild the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".partial.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        config = _config(model, plan, label_names, crop_pct, interpolation)
        (aside / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(weights, aside / "model.safetensors")
        shutil.copymode(aside / "config.json", aside / "model.safetensors")  # safetensors' own mode is the owner's only
        _check(aside, model, x, plan.name)
        for name in ("config.json", "model.safetensors"):
            os.replace(aside / name, folder / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _config(
    model: Any, plan: source.Plan, label_names: Sequence[str], crop_pct: float, interpolation: str
) -> dict[str, Any]:
    cfg = model.pretrained_cfg
    mean, std = source.statistics(plan)
    pretrained = {name: cfg[name] for name in KEPT if cfg.get(name) is not None} | {
        "input_size": [len(mean), *plan.img_size],
        "mean": mean,
        "std": std,
        "crop_pct": crop_pct,
        "interpolation": interpolation,
        "num_classes": len(label_names),
        "label_names": list(label_names),
    }
    return {
        "architecture": cfg["architecture"],
        "num_classes": len(label_names),
        "num_features": model.num_features,
        "model_args": _model_args(plan),
        "pretrained_cfg": pretrained,
    }


def _model_args(plan: source.Plan) -> dict[str, Any]:
    """The constructor's arguments beside the architecture's own: the source's, and the size where it is one."""
    kind, _, place = plan.timm_name.partition(":")
    found: dict[str, Any] = {}
    if kind == "local-dir":
        found = json.loads((Path(place) / "config.json").read_text(encoding="utf-8")).get("model_args") or {}
    elif kind == "hf-hub":
        found = timm.models.load_model_config_from_hf(place)[2] or {}
    own = {
        name: value for name, value in plan.arguments.items() if name not in ("num_classes", "pretrained_cfg_overlay")
    }
    return {**found, **own}


@torch.no_grad()
def _check(folder: Path, model: Any, x: torch.Tensor, name: str) -> None:
    try:
        again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        ours, theirs = model(x), again(x)
        off = float((ours - theirs).abs().max() / ours.abs().max())
    except Exception as error:  # whatever a constructor or a strict load raises
        raise ValueError(f"timm cannot rebuild '{name}' from a folder: {' '.join(str(error).split())[:300]}") from error
    if not off <= TOLERANCE:
        raise ValueError(
            f"timm rebuilds '{name}' from a folder with other outputs (off by {off:.0e}); take another teacher"
        )
