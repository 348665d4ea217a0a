"""Frozen pretrained models that teach. `Teacher` says which; `Teacher.build()` gives the module.

`Ensemble` is several that answer as one, `Custom` a module of your own.

Importing this package imports neither torch nor timm; the names that need them are loaded when they are asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from teachers.custom import Custom
    from teachers.ensemble import Ensemble
    from teachers.frozen import FrozenTeacher
    from teachers.frozen_ensemble import FrozenEnsemble
    from teachers.head import Head, fit_head
    from teachers.teacher import Teacher

__all__ = ["Custom", "Ensemble", "FrozenEnsemble", "FrozenTeacher", "Head", "Teacher", "fit_head"]

_HOMES = {
    "Custom": "custom",
    "Ensemble": "ensemble",
    "FrozenEnsemble": "frozen_ensemble",
    "FrozenTeacher": "frozen",
    "Head": "head",
    "Teacher": "teacher",
    "fit_head": "head",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'teachers' has no attribute {name!r}")
    return getattr(import_module(f"teachers.{_HOMES[name]}"), name)
