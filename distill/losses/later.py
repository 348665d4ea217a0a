"""torch, imported when it is first used: a recipe's losses are named long before they compute, as by --help."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["F", "torch"]


class _Later:
    """A module that is imported when something in it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)


if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
else:
    torch, F = _Later("torch"), _Later("torch.nn.functional")
