"""Preflight: everything about a recipe that can be known to be wrong is said before anything expensive starts."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from distill import ranges
from distill.data import Images
from distill.loader import Layout
from distill.objective import Objective
from distill.recipe import Recipe
from distill.unlabelled import labelled, with_teachers_classes
from distill.views import train_transform
from students.outputs import Shapes
from students.sizes import ViTConfig
from teachers.custom import Custom
from teachers.ensemble import AnyTeacher, Ensemble, members
from teachers.runtime import check_installed
from teachers.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe that fits: its student's classes filled in, its data opened, its losses bound on a fresh student.

    classes: their names, the teacher's where the data has none; empty where nobody names them. labelled, val_labelled:
    whether the images have labels. teacher: shapes as the losses see them, with a fitted head counted in.
    epochs_by_images: whether the number of images, and not the recipe, said how many epochs.
    """

    recipe: Recipe
    classes: tuple[str, ...]
    train: Images
    val: Images
    labelled: bool
    val_labelled: bool
    layout: Layout
    teacher: Shapes | None
    objective: Objective
    epochs_by_images: bool = False


def check(recipe: Recipe, *, processes: int = 1, accumulate: int = 1) -> Plan:
    """The plan of a recipe. ValueError: what was found, what is allowed, the way out."""
    ranges.check(recipe)
    classes, train = tuple(recipe.data.classes), recipe.data.train()
    has_labels = bool(classes) and labelled(train)
    _check_labels(recipe, has_labels)
    for member in members(recipe.teacher) if recipe.teacher else ():
        check_installed(member.runtime)
        _check_order(member, classes)
    teacher = recipe.teacher.shapes() if recipe.teacher else None
    if recipe.teacher and teacher:
        teacher = _with_head(recipe.teacher, teacher, classes if has_labels else ())
        if not classes:
            recipe, classes = with_teachers_classes(recipe, teacher)
    val = recipe.data.val()
    if not len(val):
        raise ValueError("there are no images to validate on; give the data some, or a val_fraction above 0")
    by_images = recipe.optim.epochs is None
    recipe = replace(recipe, student=_student(recipe.student, classes), optim=recipe.optim.for_images(len(train)))
    ranges.check_optim(recipe.optim)
    layout = _layout(recipe, len(train), processes, accumulate)
    _check_views(recipe, layout)
    _check_seen_together(recipe, layout)
    # The student's random start is a function of the seed alone, whatever was drawn before.
    import torch

    torch.manual_seed(recipe.seed)
    objective = Objective(recipe.student.build(), recipe.losses, teacher, images=len(train))
    return Plan(
        recipe=recipe,
        classes=classes,
        train=train,
        val=val,
        labelled=has_labels,
        val_labelled=labelled(val),
        layout=layout,
        teacher=teacher,
        objective=objective,
        epochs_by_images=by_images,
    )


def check_folder(folder: Path) -> None:
    """ValueError unless files can be written into a folder, which is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # without a name, so that nobody else comes across it
            pass
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


def _check_labels(recipe: Recipe, has_labels: bool) -> None:
    reads = [name for name, loss in recipe.losses.items() if loss.weight and loss.needs.labels]
    if reads and not has_labels:
        if recipe.teacher is None:
            raise ValueError(
                f"loss '{reads[0]}' reads labels but the training images have none, and there is no teacher; "
                "give labels, or leave out --alone"
            )
        raise ValueError(
            f"loss '{reads[0]}' reads labels but the training images have none; "
            f"use --losses.{reads[0]}.weight 0 and learn from the teacher alone, or give labels"
        )
    taught = any(loss.weight and loss.needs.teacher for loss in recipe.losses.values())
    if recipe.teacher and not taught:
        raise ValueError("the recipe has a teacher but no loss reads it; add one such as SoftTargets(), or use --alone")


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
    assert recipe.optim.epochs is not None
    return Layout(
        images=images,
        batch_size=batch_size,
        epochs=recipe.optim.epochs,
        processes=processes,
        accumulate=accumulate,
        repeats=recipe.views.repeats,
    )


def _check_order(member: Teacher | Custom, classes: tuple[str, ...]) -> None:
    if isinstance(member, Teacher) and member.calibrate and member.head != "fit":
        raise ValueError(
            "teacher.calibrate fits the temperature of a fitted head, but the head is the teacher's own; "
            "use --teacher.head fit, or leave it out"
        )
    if member.head == "fit" or getattr(member, "class_map", None):
        return
    names = member.label_names() or ()
    if names != classes and sorted(names) == sorted(classes):
        first = next(i for i, (own, yours) in enumerate(zip(names, classes, strict=True)) if own != yours)
        raise ValueError(
            f"teacher '{member.name}' has your classes in another order: its class {first} is '{names[first]}', yours "
            f"'{classes[first]}'; use --teacher.class-map names, or --teacher.head fit"
        )


def _with_head(config: AnyTeacher, teacher: Shapes, classes: tuple[str, ...]) -> Shapes:
    if isinstance(config, Teacher) and config.class_map is not None:
        if config.head == "fit":
            raise ValueError(
                "--teacher.head fit gives the teacher your classes and --teacher.class-map maps its own; use one"
            )
        mapped = config.mapped(classes)
        assert mapped is not None
        return replace(teacher, num_classes=len(mapped))
    if config.head == "fit":
        if not classes:
            raise ValueError("--teacher.head fit needs labelled training images and the data has none; use head 'own'")
        if isinstance(config, Ensemble):
            config.check_fit(teacher, len(classes))
        return replace(teacher, num_classes=len(classes))
    return teacher


def _check_views(recipe: Recipe, layout: Layout) -> None:
    if layout.repeats > 1 and 2 * layout.repeats > layout.batch_size:
        raise ValueError(
            f"views.repeats is {layout.repeats} but a batch of {layout.batch_size} then shows one image alone; use at "
            f"most {max(layout.batch_size // 2, 1)}"
        )
    for name, loss in recipe.losses.items():
        if layout.repeats > 1 and loss.weight and loss.needs.remembers:
            raise ValueError(
                f"loss '{name}' remembers each image once a step but views.repeats shows it {layout.repeats} times; "
                f"use --views.repeats 1, or --losses.{name}.weight 0"
            )
    if recipe.views.mixes and layout.part % 2:
        raise ValueError(
            f"mixup and CutMix mix pairs but a process takes {layout.part} images at a time; "
            f"use a batch_size that is a multiple of {2 * layout.processes * layout.accumulate}"
        )
    # timm asserts, or looks a policy up, when the transform is made; only then is it known whether it has it.
    try:
        train_transform(recipe.views, recipe.view_size, 3, (0.5,) * 3, (0.5,) * 3)
    except (AssertionError, KeyError, ValueError) as error:
        raise ValueError(
            f"timm takes no views.auto_augment {recipe.views.auto_augment!r} ({str(error) or type(error).__name__}); "
            "use one such as rand-m9-mstd0.5-inc1, 3a, augmix-m5-w4-d2, original or v0"
        ) from None


def _check_seen_together(recipe: Recipe, layout: Layout) -> None:
    for name, loss in recipe.losses.items():
        seen = layout.part * (layout.processes if loss.needs.gathers else 1)
        if loss.weight and seen < loss.needs.images:
            raise ValueError(
                f"loss '{name}' compares images with each other and is given {seen} at a time; it needs "
                f"{loss.needs.images} or more: use a larger --optim.batch-size, or --losses.{name}.weight 0"
            )
