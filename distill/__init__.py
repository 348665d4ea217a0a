"""Distil a pretrained timm model into a Vision Transformer built from scratch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill import losses
    from distill.data import Arrays, Folder, HuggingFace, Shards, Synthetic, Torchvision
    from distill.job import run
    from distill.recipe import Optim, Recipe
    from distill.unlabelled import Unlabelled
    from distill.views import Views
    from students import Outputs

__all__ = [
    "Arrays",
    "Folder",
    "HuggingFace",
    "Optim",
    "Outputs",
    "Recipe",
    "Shards",
    "Synthetic",
    "Torchvision",
    "Unlabelled",
    "Views",
    "losses",
    "run",
]

_HOMES = {
    "Arrays": "distill.data",
    "Folder": "distill.data",
    "HuggingFace": "distill.data",
    "Shards": "distill.data",
    "Synthetic": "distill.data",
    "Torchvision": "distill.data",
    "Optim": "distill.recipe",
    "Outputs": "students.outputs",
    "Recipe": "distill.recipe",
    "Unlabelled": "distill.unlabelled",
    "Views": "distill.views",
    "run": "distill.job",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    # Each name is fetched when it is first used: asking for --help must not wait for torch.
    if name == "losses":
        return import_module("distill.losses")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'distill' has no attribute {name!r}")
