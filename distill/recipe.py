"""A recipe: what is learnt from whom. It is a value, and `recipe.json` is the same value."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import tyro

# tyro reads the annotations, so what they name is imported for good.
from distill.losses.contract import Loss
from distill.masked import without_secrets
from distill.views import Views
from students.sizes import ViTConfig

if TYPE_CHECKING:
    from distill.data import Data
    from teachers.ensemble import AnyTeacher

    MaybeTeacher = AnyTeacher | None
else:
    Data = MaybeTeacher = Any  # tyro takes the options from the value's own type only where the annotation is Any


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW, a warm-up and a cosine over the run."""

    epochs: Annotated[int | None, tyro.conf.arg(metavar="INT")] = 300
    """Passes over the training images. None: 3,000,000 / images, between 100 and 300."""
    batch_size: int = 1024
    """Images in a step, over all processes and accumulation steps together."""
    lr: float = 1e-3
    """The highest learning rate, at this batch size."""
    min_lr: float = 1e-5
    """The learning rate at the end of the cosine."""
    warmup_lr: float = 1e-6
    """The learning rate at the first step of the warm-up."""
    warmup_epochs: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = 5.0
    """Epochs of linear warm-up. None: a tenth of the run, but at most 5."""
    weight_decay: float = 0.05
    """Decay of weight matrices; biases, norms, position embedding and tokens get none."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's two momenta."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    clip_grad: float | None = None
    """Largest norm of the gradient; None: not clipped."""
    ema_decay: float | None = None
    """Decay of the moving average of the student's weights; it is then what is evaluated and exported."""

    def for_images(self, images: int) -> Optim:
        """With the epochs filled in for a number of training images, where they are left to it.

        300 epochs, as ViTs are trained on ImageNet, up to 10,000 images; a third of that from 30,000 on.
        """
        return (
            replace(self, epochs=min(max(round(3_000_000 / max(images, 1)), 100), 300)) if self.epochs is None else self
        )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is learnt from whom. Where it runs and in which precision is accelerate's configuration."""

    student: ViTConfig
    data: Data
    teacher: MaybeTeacher = None
    losses: Mapping[str, Loss] = field(default_factory=dict)
    views: Views = field(default_factory=Views)
    optim: Optim = field(default_factory=Optim)
    seed: int = 0
    """Of the weights' start, the order of images and every random view."""

    @property
    def view_size(self) -> tuple[int, int]:
        """(height, width) of the views in pixels: the student's unless the views say otherwise."""
        size = self.views.img_size
        if size is None:
            return self.student.img_hw
        height, width = (size, size) if isinstance(size, int) else size
        return height, width

    def without_teacher(self) -> Recipe:
        """The same student, data and budget with labels alone: the baseline of a distillation.

        Losses that read a teacher go; if no loss is left, cross-entropy with the labels stands in. What is left is
        weighed up so that the largest weight is 1, and a student that no loss gives its distillation token has none.
        """
        from distill.losses import CrossEntropy

        kept = {name: loss for name, loss in self.losses.items() if not loss.needs.teacher and loss.weight}
        largest = max((loss.weight for loss in kept.values()), default=1.0)
        kept = {name: _replace(loss, weight=loss.weight / largest) for name, loss in kept.items()}
        reads_token = any(loss.needs.head == "token" for loss in kept.values())
        return replace(
            self,
            teacher=None,
            losses=kept or {"labels": CrossEntropy()},
            student=replace(self.student, distilled=self.student.distilled and reads_token),
        )


def _replace(value: Any, **changes: Any) -> Any:
    return replace(value, **changes)


def to_json(value: Any) -> Any:
    """A recipe, or any value in one, as plain JSON values; a dataclass says its type, a URL none of its secrets."""
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        return {"type": f"{kind.__module__}.{kind.__qualname__}"} | {
            f.name: to_json(getattr(value, f.name)) for f in fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if isinstance(value, str):
        return without_secrets(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise ValueError(f"a recipe holds {value!r}; use dataclasses, mappings, tuples, numbers, strings and None")


def without_runtime(value: Any) -> Any:
    """A teacher's JSON value without how it runs, which is checked to change nothing that it says."""
    if isinstance(value, dict):
        return {name: without_runtime(item) for name, item in value.items() if name != "runtime"}
    return [without_runtime(item) for item in value] if isinstance(value, list) else value


def from_json(value: Any) -> Any:
    """What `to_json` wrote, rebuilt. ValueError if it names a type that is not a dataclass within reach."""
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "type" not in value:
        return {key: from_json(item) for key, item in value.items()}
    kind = _dataclass_named(value["type"])
    try:
        return kind(**{key: from_json(item) for key, item in value.items() if key != "type"})
    except TypeError as error:
        raise ValueError(f"recipe.json does not fit this version of {value['type']}: {error}") from None


def _dataclass_named(name: Any) -> Any:
    module_name, _, class_name = str(name).rpartition(".")
    # Only our own packages are imported for a file's sake; anything else must have been imported by its user.
    if module_name.partition(".")[0] in {"distill", "students", "teachers"}:
        try:
            import_module(module_name)
        except ImportError:
            raise ValueError(f"recipe.json names {name}, which this version does not have") from None
    kind = getattr(sys.modules.get(module_name), class_name, None)
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise ValueError(f"recipe.json names {name}, which is not imported here; name its script with --script FILE")
    return kind


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """The fields in which two recipes' JSON values differ, as `optim.epochs: 4 -> 5`."""
    if isinstance(one, dict) and isinstance(other, dict):
        rows = []
        for key in dict.fromkeys([*one, *other]):
            rows += differences(one.get(key), other.get(key), f"{path}.{key}" if path else key)
        return rows
    return [] if one == other else [f"{path}: {json.dumps(one)} -> {json.dumps(other)}"]
