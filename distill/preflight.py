"""Preflight: everything about a recipe that can be known to be wrong is said before anything expensive starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from distill.data import Images
from distill.loader import Layout
from distill.objective import Objective
from distill.recipe import Optim, Recipe
from students.outputs import Shapes
from students.sizes import ViTConfig
from teachers.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe that fits: its student's classes filled in, its data opened, its losses bound on a fresh student.

    teacher: shapes as the losses see them, with a fitted head counted in.
    """

    recipe: Recipe
    classes: tuple[str, ...]
    train: Images
    val: Images
    layout: Layout
    teacher: Shapes | None
    objective: Objective


def check(recipe: Recipe, *, processes: int = 1, accumulate: int = 1) -> Plan:
    """The plan of a recipe. ValueError: what was found, what is allowed, the way out."""
    _check_optim(recipe.optim)
    data = recipe.data
    classes, train, val = data.classes, data.train(), data.val()
    _check_labels(recipe, classes)
    recipe = replace(recipe, student=_student(recipe.student, classes))
    layout = _layout(recipe, len(train), processes, accumulate)
    teacher = recipe.teacher.shapes() if recipe.teacher else None
    if recipe.teacher and teacher:
        teacher = _with_head(recipe.teacher, teacher, classes)
    _check_views(recipe, layout)
    # The student's random start is a function of the seed alone, whatever was drawn before.
    import torch

    torch.manual_seed(recipe.seed)
    objective = Objective(recipe.student.build(), recipe.losses, teacher)
    return Plan(
        recipe=recipe,
        classes=classes,
        train=train,
        val=val,
        layout=layout,
        teacher=teacher,
        objective=objective,
    )


def check_folder(folder: Path) -> None:
    """ValueError unless files can be written into a folder, which is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"the run folder {folder} cannot be written ({error.strerror}); choose another with --out"
        ) from None


def _student(student: ViTConfig, classes: tuple[str, ...]) -> ViTConfig:
    if student.num_classes is None:
        if not classes:
            raise ValueError("the data has no classes to give the student; set --student.num-classes")
        return replace(student, num_classes=len(classes))
    if classes and student.num_classes != len(classes):
        raise ValueError(
            f"student has {student.num_classes} classes but the data has {len(classes)}; "
            f"use --student.num-classes {len(classes)}"
        )
    if student.in_chans not in (1, 3):
        raise ValueError(f"student takes {student.in_chans} channels but views have 1 or 3; set --student.in-chans")
    return student


def _check_labels(recipe: Recipe, classes: tuple[str, ...]) -> None:
    reads = [name for name, loss in recipe.losses.items() if loss.weight and loss.needs.labels]
    if reads and not classes:
        raise ValueError(
            f"loss '{reads[0]}' reads labels but the training images have none; "
            f"use --losses.{reads[0]}.weight 0 and learn from the teacher alone, or give labels"
        )
    unread = [name for name, loss in recipe.losses.items() if loss.weight and loss.needs.teacher]
    if recipe.teacher and not unread:
        raise ValueError("the recipe has a teacher but no loss reads it; add one such as SoftTargets(), or use --alone")


def _check_optim(optim: Optim) -> None:
    for name in ("epochs", "batch_size"):
        if getattr(optim, name) < 1:
            raise ValueError(f"optim.{name} is {getattr(optim, name)}; use 1 or more")
    if not 0 <= optim.warmup_epochs <= optim.epochs:
        raise ValueError(
            f"optim.warmup_epochs is {optim.warmup_epochs} but the run has {optim.epochs} epochs; "
            f"use --optim.warmup-epochs 0 to {optim.epochs}"
        )
    if optim.lr <= 0 or optim.weight_decay < 0:
        raise ValueError(f"optim has lr {optim.lr} and weight_decay {optim.weight_decay}; use lr > 0, decay >= 0")
    if optim.ema_decay is not None and not 0 < optim.ema_decay < 1:
        raise ValueError(f"optim.ema_decay is {optim.ema_decay}; use a number between 0 and 1, such as 0.9999, or None")


def _layout(recipe: Recipe, images: int, processes: int, accumulate: int) -> Layout:
    batch_size = recipe.optim.batch_size
    parts = processes * accumulate
    if batch_size % parts:
        raise ValueError(
            f"batch_size {batch_size} does not divide among {processes} processes × {accumulate} accumulation steps; "
            f"use a multiple of {parts}, such as --optim.batch-size {-(-batch_size // parts) * parts}"
        )
    if images < batch_size:
        raise ValueError(
            f"a batch takes {batch_size} images but there are {images} to train on; "
            f"use --optim.batch-size {max(images // parts, 1) * parts} or less"
        )
    return Layout(
        images=images,
        batch_size=batch_size,
        epochs=recipe.optim.epochs,
        processes=processes,
        accumulate=accumulate,
    )


def _with_head(config: Teacher, teacher: Shapes, classes: tuple[str, ...]) -> Shapes:
    if config.head == "fit":
        if not classes:
            raise ValueError("--teacher.head fit needs labelled training images and the data has none; use head 'own'")
        return replace(teacher, num_classes=len(classes))
    return teacher


def _check_views(recipe: Recipe, layout: Layout) -> None:
    if recipe.views.mixes and layout.part % 2:
        raise ValueError(
            f"mixup and CutMix mix pairs but a process takes {layout.part} images at a time; "
            f"use a batch_size that is a multiple of {2 * layout.processes * layout.accumulate}"
        )
    if policy := recipe.views.auto_augment:
        known = ("rand", "augmix", "3a", "original", "v0")
        if not policy.startswith(known):
            raise ValueError(f"views.auto_augment is {policy!r}; use one of timm's policies: {', '.join(known)} …")
