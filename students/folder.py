"""A student on disk: timm's local folder, `config.json` and `model.safetensors`. Nothing is ever pickled."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from students.positions import resize_pos_embed
from students.sizes import VIT_BASE, VIT_HUGE, VIT_LARGE, VIT_SMALL, VIT_TINY, ViTConfig
from students.vit import ViT

CONFIG, WEIGHTS = "config.json", "model.safetensors"
STUDENT = "student"  # the folder inside a run folder
TIMM_SIZES = {"tiny": VIT_TINY, "small": VIT_SMALL, "base": VIT_BASE, "large": VIT_LARGE, "huge": VIT_HUGE}
TIMM_NAME = re.compile(r"(vit|deit)_(tiny|small|base|large|huge)(_distilled)?_patch(\d+)_(\d+)(\..*)?")
# What timm's VisionTransformer has no word for, or a word elsewhere in config.json.
NOT_TIMM_ARGS = {"num_classes", "distilled", "pos_embed", "qk_scale", "representation_size", "mean", "std"}


def save(
    model: ViT,
    folder: str | Path,
    *,
    label_names: Sequence[str] = (),
    crop_pct: float = 1.0,
    interpolation: str = "bicubic",
    view_size: tuple[int, int] | None = None,
) -> Path:
    """Write the student to a folder that `load` and `timm.create_model("local-dir:FOLDER", pretrained=True)` read.

    Both give the student's outputs. timm has no words for qk_scale, representation_size, and a distillation token
    without a class token or with averaging; such a student is saved as architecture "students.ViT", for `load` only.
    label_names: one a class, or none. crop_pct, interpolation: how images are prepared, in timm's words.
    view_size: (height, width) that an image is cropped to before it is resized to img_size; None: they are the same.
    The folder is written aside and moved into place, so what was there before stays whole if writing fails.
    Returns the folder. ValueError if label_names do not fit, or the weights the config: `load` would refuse them.
    """
    folder, model = Path(folder), getattr(model, "_orig_mod", model)  # what torch.compile wraps
    _check_weights(model)
    if label_names and len(label_names) != model.config.known_classes():
        raise ValueError(
            f"{len(label_names)} label_names for {model.config.num_classes} classes; give one each, or none"
        )
    config = _timm_config(model.config, list(label_names), crop_pct, interpolation)
    if view_size is not None and tuple(view_size) != model.config.img_hw:
        config["view_size"] = list(view_size)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    student = json.dumps(dataclasses.asdict(model.config))

    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")  # a sibling, because a move must not cross file systems
    aside.mkdir(exist_ok=True)
    try:
        (aside / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(weights, aside / WEIGHTS, metadata={"student": student})
        shutil.copymode(aside / CONFIG, aside / WEIGHTS)  # safetensors lets only the owner read, whatever the umask
        if folder.is_dir():
            for name in (WEIGHTS, CONFIG):
                os.replace(aside / name, folder / name)
        else:
            os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _check_weights(model: ViT) -> None:
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in model.config.build().state_dict().items()}
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if own != expected:
        name = next(name for name in (*own, *expected) if own.get(name) != expected.get(name))
        shapes = [list(found[name]) if name in found else "absent" for found in (own, expected)]
        raise ValueError(
            f"the student's {name} is {shapes[0]} but its config says {shapes[1]}; build it with the config that it is "
            "to have, such as students.load(FOLDER, num_classes=...)"
        )


def load(folder: str | Path, **overrides: Any) -> ViT:
    """The student in a folder, a run folder or a .safetensors file, in eval mode and on the CPU.

    Reads what `save` wrote, and timm's folders of a plain ViT or DeiT (`vit_tiny_patch16_224` …).
    overrides: fields of `ViTConfig` to change. With another img_size the position embedding is resized; with another
    num_classes the head is new. Every other weight must fit.
    ValueError for a missing file, another architecture, an unknown field or a weight that does not fit.
    """
    path = _weights_file(Path(folder))
    saved = _read_config(path)
    config = saved.override(**overrides)
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error}); save the student again") from error
    model = config.build()
    new_head: set[str] = set()
    if config.num_classes != saved.num_classes:
        new_head = {name for name in model.state_dict() if name.startswith(("head.", "head_dist."))}
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(("head.", "head_dist."))}
    _fit(model, saved, weights, new_head, path)
    return model.eval()


def _fit(model: ViT, saved: ViTConfig, weights: dict[str, Tensor], new_head: set[str], path: Path) -> None:
    prefix, grid = saved.num_prefix_tokens, saved.grid_size
    if "pos_embed" in weights and weights["pos_embed"].shape[1] == prefix + grid[0] * grid[1]:
        weights["pos_embed"] = resize_pos_embed(weights["pos_embed"], prefix, grid, model.config.grid_size)
    mine = {name: list(tensor.shape) for name, tensor in model.state_dict().items() if name not in new_head}
    theirs = {name: list(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(mine.keys() | theirs.keys()):
        if mine.get(name) != theirs.get(name):
            found, wanted = theirs.get(name, "absent"), mine.get(name, "absent")
            raise ValueError(f"{path}: weight {name!r} is {found} but the student's is {wanted}; check the overrides")
    model.load_state_dict(weights, strict=not new_head)


def _weights_file(path: Path) -> Path:
    if path.is_file():
        return path
    if (path / STUDENT / CONFIG).is_file():
        path = path / STUDENT
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}; give one with {CONFIG} and {WEIGHTS}")
    found = [path / WEIGHTS] if (path / WEIGHTS).is_file() else sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        raise ValueError(f"{path} has no {WEIGHTS} but {len(found)} other .safetensors files; there must be one")
    return found[0]


def _read_config(weights: Path) -> ViTConfig:
    """The config of weights: from the config.json beside them, else from their own header."""
    file = weights.parent / CONFIG
    if file.is_file():
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} is no JSON ({error}); save the student again") from error
        student = content.get("student")
        return ViTConfig().override(**_tuples(student)) if student else _from_timm(content, file)
    try:
        with safe_open(weights, framework="pt") as opened:
            student = (opened.metadata() or {}).get("student")
    except SafetensorError as error:
        raise ValueError(f"{weights} is no safetensors file ({error}); save the student again") from error
    if student is None:
        raise ValueError(f"there is no {CONFIG} beside {weights}, and no student in its header; add timm's {CONFIG}")
    return ViTConfig().override(**_tuples(json.loads(student)))


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists only, a config tuples only."""
    return {word: tuple(value) if isinstance(value, list) else value for word, value in fields.items()}


def _from_timm(content: dict[str, Any], file: Path) -> ViTConfig:
    """timm's config.json -> the config of the same model: its architecture's, then what it says otherwise."""
    architecture = content.get("architecture")
    name = TIMM_NAME.fullmatch(str(architecture))
    if name is None:
        raise ValueError(
            f"{file}: architecture {architecture!r} is no plain ViT; a student can be vit_SIZE_patchP_PIXELS or "
            f"deit_SIZE[_distilled]_patchP_PIXELS with SIZE one of {', '.join(TIMM_SIZES)}"
        )
    _, size, distilled, patch, pixels, _ = name.groups()
    fields: dict[str, Any] = {"patch_size": int(patch), "img_size": int(pixels), "distilled": bool(distilled)}
    pretrained = content.get("pretrained_cfg", content)  # timm's oldest files have one level only
    if "input_size" in pretrained:
        fields["in_chans"], *fields["img_size"] = pretrained["input_size"]
    fields |= {word: pretrained[word] for word in ("num_classes", "mean", "std") if word in pretrained}
    fields |= {word: content[word] for word in ("num_classes", "global_pool") if word in content}
    fields |= {word: value for word, value in content.get("model_args", {}).items() if value is not None}
    channels = fields.get("in_chans", 3)
    for word in ("mean", "std"):
        # timm before 1.0.31 leaves those of the colours of the model that it began with; later ones take their mean.
        if fields.get(word) and len(fields[word]) != channels:
            fields[word] = [sum(fields[word]) / len(fields[word])] * channels
    try:
        return TIMM_SIZES[size].override(**_tuples(fields))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _timm_config(config: ViTConfig, label_names: list[str], crop_pct: float, interpolation: str) -> dict[str, Any]:
    """What config.json holds: timm's words for the model, and under "student" every field of its config."""
    heads = ["head", "head_dist"] if config.distilled else "head"
    args = {word: value for word, value in dataclasses.asdict(config).items() if word not in NOT_TIMM_ARGS}
    pretrained = {
        "input_size": [config.in_chans, *config.img_hw],
        "fixed_input_size": True,
        "interpolation": interpolation,
        "crop_pct": crop_pct,
        "mean": config.input_mean,
        "std": config.input_std,
        "num_classes": config.num_classes,
        "classifier": heads,
    }
    if config.in_chans in (1, 3):  # with other counts timm 1.0.20 would start the named layer anew, at random
        pretrained["first_conv"] = "patch_embed.proj"
    return {
        "architecture": _timm_architecture(config),
        "num_classes": config.num_classes,
        "num_features": config.embed_dim,
        "global_pool": config.global_pool,
        "model_args": args,
        "pretrained_cfg": pretrained | ({"label_names": label_names} if label_names else {}),
        "student": dataclasses.asdict(config),
    }


def _timm_architecture(config: ViTConfig) -> str:
    """timm's name of the size that is nearest in width; model_args make it exact."""
    as_deit = config.distilled and config.class_token and config.global_pool == "token"
    if config.qk_scale is not None or config.representation_size is not None or (config.distilled and not as_deit):
        return "students.ViT"
    names = {
        192: "deit_tiny_distilled_patch16_224" if as_deit else "vit_tiny_patch16_224",
        384: "deit_small_distilled_patch16_224" if as_deit else "vit_small_patch16_224",
        768: "deit_base_distilled_patch16_224" if as_deit else "vit_base_patch16_224",
    }
    return names[min(names, key=lambda width: abs(width - config.embed_dim))]
