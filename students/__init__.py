"""Students: Vision Transformers built from scratch, in timm's language. Nothing is imported before it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from students.folder import load, save
    from students.outputs import Outputs, Shapes
    from students.sizes import (
        VIT_BASE,
        VIT_HUGE,
        VIT_LARGE,
        VIT_MEDIUM,
        VIT_SMALL,
        VIT_TINY,
        ViTConfig,
        vit_base,
        vit_huge,
        vit_large,
        vit_medium,
        vit_small,
        vit_tiny,
    )
    from students.vit import ViT

__all__ = [
    "VIT_BASE",
    "VIT_HUGE",
    "VIT_LARGE",
    "VIT_MEDIUM",
    "VIT_SMALL",
    "VIT_TINY",
    "Outputs",
    "Shapes",
    "ViT",
    "ViTConfig",
    "load",
    "save",
    "vit_base",
    "vit_huge",
    "vit_large",
    "vit_medium",
    "vit_small",
    "vit_tiny",
]

_HOMES = {"ViT": "vit", "load": "folder", "save": "folder", "Outputs": "outputs", "Shapes": "outputs"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'students' has no attribute {name!r}")
    return getattr(import_module(f"students.{_HOMES.get(name, 'sizes')}"), name)


def __dir__() -> list[str]:
    return __all__
