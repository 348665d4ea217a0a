"""Make the teacher of a run ready: its weights, its head for the data's classes, the way it runs here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from distill.console import Console
from distill.data import Images
from distill.loader import in_order
from distill.recipe import Recipe, to_json
from distill.views import order, train_transform, val_transform
from teachers import FrozenTeacher, Head, fit_head
from teachers.runtime import cache_folder, weights_digest

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.preflight import Plan

HEAD_FILE = "teacher_head.safetensors"
HEAD_SEED = 0  # a head belongs to the teacher and the data, so runs with other seeds share it
BATCH_SIZE = 64


def make_teacher(
    recipe: Recipe, accelerator: Accelerator, console: Console, *, layers: Sequence[int], head: Head | None
) -> FrozenTeacher:
    """The recipe's teacher on this process's device, started for these layers."""
    assert recipe.teacher is not None
    teacher = recipe.teacher.build(head=head, layers=layers)
    with console.rich.status("starting the teacher"):
        return teacher.start(accelerator.device, layers)


def fitted_head(plan: Plan, out: Path, accelerator: Accelerator, console: Console, *, workers: int) -> Head | None:
    """The head that the recipe asks to be fitted: from the run folder, from the cache, or fitted now. None: its own.

    The features come from `fit_images` training images, drawn once, each seen plain and in one random view.
    """
    config = plan.recipe.teacher
    if config is None or config.head == "own":
        return None
    kept = out / HEAD_FILE
    if not kept.is_file() and accelerator.is_main_process:
        # With the layers of the losses already, so that what is exported for it serves the training too.
        layers = plan.objective.teacher_layers
        backbone = make_teacher(plan.recipe, accelerator, console, layers=layers, head=None)
        cached = _cache_folder() / f"{_fingerprint(plan, backbone)}.safetensors"
        if cached.is_file():
            head, how = Head.load(cached), "taken from the cache"
        else:
            head, how = _fit(plan, backbone, accelerator, console, workers), "fitted"
            head.save(cached, {"teacher": config.name, "classes": json.dumps(plan.classes)})
        head.save(kept)
        console.say(
            f"teacher's head {how}: held-out top-1 {head.heldout_top1:.1%}, nll {head.heldout_nll:.3f}, L2 {head.l2:g}"
        )
    accelerator.wait_for_everyone()
    return Head.load(kept)


def kept_head(recipe: Recipe, out: Path) -> Head | None:
    """The fitted head of a run folder, None where the teacher has its own. ValueError if it is missing."""
    if recipe.teacher is None or recipe.teacher.head == "own":
        return None
    if not (out / HEAD_FILE).is_file():
        raise ValueError(f"{out / HEAD_FILE} is missing; run the recipe again to fit the teacher's head")
    return Head.load(out / HEAD_FILE)


def _fit(plan: Plan, teacher: FrozenTeacher, accelerator: Accelerator, console: Console, workers: int) -> Head:
    config, student, views = plan.recipe.teacher, plan.recipe.student, plan.recipe.views
    assert config is not None
    chosen = order(HEAD_SEED, 0, len(plan.train))[: config.fit_images]
    images = cast(Images, torch.utils.data.Subset(cast(Any, plan.train), chosen.tolist()))
    plain = val_transform(views, plan.recipe.view_size, student.in_chans)
    random = train_transform(views, plan.recipe.view_size, student.in_chans, student.input_mean, student.input_std)
    embeddings, labels = [], []
    with console.counting("teacher's features", 2 * len(chosen)) as counter:
        for transform, seed in ((plain, None), (random, HEAD_SEED)):
            for batch in in_order(images, transform, batch_size=BATCH_SIZE, workers=workers, seed=seed):
                assert batch.labels is not None
                embedding = teacher(batch.views.to(accelerator.device)).embedding
                assert embedding is not None
                # A copy, because a runtime's own output would hold on to the memory of its whole pool.
                embeddings.append(embedding.clone())
                labels.append(batch.labels.to(accelerator.device))
                counter.advance(len(batch.views))
    groups = torch.arange(len(chosen)).repeat(2)  # both views of an image stay on one side of the split
    with console.rich.status("fitting the head"):
        return fit_head(
            torch.cat(embeddings), torch.cat(labels), num_classes=len(plan.classes), groups=groups, seed=HEAD_SEED
        )


def _fingerprint(plan: Plan, teacher: FrozenTeacher) -> str:
    """What a fitted head depends on: the teacher's weights and size, the data, the views, and how many of them."""
    recipe, config = plan.recipe, plan.recipe.teacher
    assert config is not None
    parts = [
        weights_digest(teacher.model),
        to_json(teacher.preprocess.img_size),
        recipe.data.fingerprint(),
        to_json(recipe.views),
        [*plan.recipe.view_size, config.fit_images, *recipe.student.input_mean, *recipe.student.input_std],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _cache_folder() -> Path:
    return cache_folder().with_name("heads")
