"""Make the teacher of a run ready: its weights, its head for the data's classes, the way it runs here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from distill import sharding
from distill.console import Console
from distill.data import Images
from distill.loader import in_order, order_of
from distill.processes import meet
from distill.recipe import Recipe, to_json
from distill.views import train_transform, val_transform
from teachers import Custom, Ensemble, FrozenTeacher, Head, Teacher, fit_head
from teachers.ensemble import AnyTeacher, members
from teachers.frozen_ensemble import AnyFrozen, split_layers
from teachers.runtime import cache_folder, weights_digest

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.preflight import Plan

HEADS = "teacher_head"  # what the files of fitted heads begin with
HEAD_FILE = f"{HEADS}.safetensors"
HEAD_SEED = 0  # a head belongs to the teacher and the data, so runs with other seeds share it
BATCH_SIZE = 64


Heads = Head | tuple[Head | None, ...]
"""A teacher's fitted head; of an ensemble one a member, None where a member has its own."""


def make_teacher(
    recipe: Recipe,
    accelerator: Accelerator,
    console: Console,
    *,
    layers: Sequence[int],
    head: Heads | None,
    images: Images | None = None,
    pretrained: bool = True,
) -> AnyFrozen:
    """The recipe's teacher on this process's device, started for these layers; its runtime is checked on the images.

    pretrained: False leaves its weights random, for a rehearsal.
    """
    config: Any = recipe.teacher
    mapped = config.mapped(recipe.data.classes) if getattr(config, "class_map", None) else None
    mapping = {"class_map": mapped} if mapped else {}
    teacher: AnyFrozen = config.build(head=head, layers=layers, pretrained=pretrained, **mapping)
    if sharding.shards(accelerator):
        return sharding.shard_teacher(teacher, accelerator)
    # Under the autocast that it teaches under, for which its runtime is chosen.
    with console.rich.status("starting the teacher"), accelerator.autocast():
        return teacher.start(accelerator.device, layers, _first_views(recipe, images))


def fitted_head(plan: Plan, out: Path, accelerator: Accelerator, console: Console, *, workers: int) -> Heads | None:
    """The head that the recipe asks to be fitted: from the run folder, from the cache, or fitted now. None: its own.

    The features come from `fit_images` training images, drawn once, each seen plain and in one random view. An
    ensemble's members have a head each.
    """
    teacher = plan.recipe.teacher
    if teacher is None or plan.teacher is None or teacher.head == "own":
        return None
    asked = split_layers(plan.teacher, plan.objective.teacher_layers)
    heads = []
    for member, kept, layers in zip(members(teacher), _head_files(teacher, out), asked, strict=True):
        alone = replace(plan, recipe=replace(plan.recipe, teacher=member))
        fit = member.head == "fit"
        heads.append(_fitted_head(alone, kept, layers, accelerator, console, workers) if fit else None)
    return tuple(heads) if isinstance(teacher, Ensemble) else heads[0]


def zero_head(plan: Plan) -> Heads | None:
    """Zeros of the shape of `fitted_head`, for a rehearsal."""
    teacher = plan.recipe.teacher
    if teacher is None or plan.teacher is None or teacher.head == "own":
        return None
    classes, heads = plan.teacher.num_classes, []
    for member, shapes in zip(members(teacher), plan.teacher.members or (plan.teacher,), strict=True):
        zeros = torch.zeros(classes, shapes.embedding), torch.zeros(classes)
        heads.append(Head(*zeros, l2=0, heldout_top1=0, heldout_nll=0) if member.head == "fit" else None)
    return tuple(heads) if isinstance(teacher, Ensemble) else heads[0]


def _head_files(teacher: AnyTeacher, out: Path) -> list[Path]:
    if isinstance(teacher, Ensemble):
        return [out / HEAD_FILE.replace(".", f"_{number}.") for number in range(len(teacher.members))]
    return [out / HEAD_FILE]


def _fitted_head(
    plan: Plan, kept: Path, layers: Sequence[int], accelerator: Accelerator, console: Console, workers: int
) -> Head:
    config = _single(plan)
    # Others do not look: on a network disk one who has missed a file may go on missing it.
    if accelerator.is_main_process and not kept.is_file():
        asked: Any = plan.recipe.teacher
        cached = _cache_folder() / f"{_fingerprint(plan, asked.build(layers=layers))}.safetensors"
        head, how = _cached(cached), "taken from the cache"
        if head is None:
            # With the layers of the losses already, so that what is exported for it serves the training too.
            backbone = make_teacher(plan.recipe, accelerator, console, layers=layers, head=None, images=plan.train)
            assert isinstance(backbone, FrozenTeacher)
            head, how = _fit(plan, backbone, accelerator, console, workers), "fitted"
            head.save(cached, {"teacher": config.name, "classes": json.dumps(plan.classes)})
        head.save(kept)
        divided = f", temperature {head.temperature:.3f}" if _calibrated(config) else ""
        figures = f"held-out top-1 {head.heldout_top1:.1%}, nll {head.heldout_nll:.3f}, L2 {head.l2:g}{divided}"
        console.say(f"head of {config.name} {how}: {figures}")
    meet(accelerator)
    return Head.load(kept)


def _cached(file: Path) -> Head | None:
    """None where it is not there, or damaged, and is to be fitted again."""
    with suppress(ValueError):
        return Head.load(file) if file.is_file() else None
    return None


def kept_head(recipe: Recipe, out: Path) -> Heads | None:
    """The fitted head of a run folder, None where the teacher has its own. ValueError if it is missing."""
    teacher = recipe.teacher
    if teacher is None or teacher.head == "own":
        return None
    heads = []
    for member, kept in zip(members(teacher), _head_files(teacher, out), strict=True):
        if member.head == "fit" and not kept.is_file():
            raise ValueError(f"{kept} is missing; run the recipe again to fit the teacher's head")
        heads.append(Head.load(kept) if member.head == "fit" else None)
    return tuple(heads) if isinstance(teacher, Ensemble) else heads[0]


def _first_views(recipe: Recipe, images: Images | None, count: int = 8) -> Tensor | None:
    """The first images, plain, [B >= 2, C, H, W]; None if there are fewer than two."""
    if images is None or len(images) < 2:
        return None
    first = cast(Images, torch.utils.data.Subset(cast(Any, images), range(min(count, len(images)))))
    transform = val_transform(recipe.views, recipe.view_size, recipe.student.in_chans)
    return next(iter(in_order(first, transform, batch_size=count, workers=0))).views


def _fit(plan: Plan, teacher: FrozenTeacher, accelerator: Accelerator, console: Console, workers: int) -> Head:
    student, views = plan.recipe.student, plan.recipe.views
    config = _single(plan)
    chosen = order_of(plan.train, HEAD_SEED, 0)[: config.fit_images]
    images = cast(Images, torch.utils.data.Subset(cast(Any, plan.train), chosen.tolist()))
    plain = val_transform(views, plan.recipe.view_size, student.in_chans)
    random = train_transform(views, plan.recipe.view_size, student.in_chans, student.input_mean, student.input_std)
    # Made at once: pieces that are kept from each batch lie in the way of the next one's memory, which then grows.
    embeddings = torch.empty(2 * len(chosen), teacher.shapes.embedding, device=accelerator.device)
    labels = torch.empty(2 * len(chosen), dtype=torch.long, device=accelerator.device)
    with console.counting("teacher's features", 2 * len(chosen)) as counter:
        for transform, seed in ((plain, None), (random, HEAD_SEED)):
            for batch in in_order(images, transform, batch_size=BATCH_SIZE, workers=workers, seed=seed):
                assert batch.labels is not None
                with accelerator.autocast():  # which its runtime was started for
                    embedding = teacher(batch.views.to(accelerator.device, non_blocking=True)).embedding
                assert embedding is not None
                rows = slice(counter.done, counter.done + len(batch.views))
                embeddings[rows], labels[rows] = embedding, batch.labels.to(accelerator.device)
                counter.advance(len(batch.views))
    groups = torch.arange(len(chosen)).repeat(2)  # both views of an image stay on one side of the split
    plain_rows = torch.arange(2 * len(chosen)) < len(chosen)
    with console.rich.status("fitting the head"):
        return fit_head(
            embeddings,
            labels,
            num_classes=len(plan.classes),
            groups=groups,
            seed=HEAD_SEED,
            calibrate_on=plain_rows if _calibrated(config) else None,
        )


def _fingerprint(plan: Plan, teacher: FrozenTeacher) -> str:
    """What a fitted head depends on: the teacher's weights and size, the data, the views, and how many of them."""
    recipe, config = plan.recipe, _single(plan)
    parts = [
        *what_embeds(teacher, getattr(config, "classifier", None)),
        recipe.data.fingerprint(),
        to_json(recipe.views),
        [*plan.recipe.view_size, config.fit_images, *recipe.student.input_mean, *recipe.student.input_std],
    ]
    parts += ["calibrated"] if _calibrated(config) else []  # so that heads that were fitted before keep their names
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def what_embeds(teacher: FrozenTeacher, classifier: str | None = None) -> list[Any]:
    """What a teacher's embedding of a view is a function of: its weights, its modules, how it prepares the view."""
    prepare = teacher.preprocess
    statistics = [cast(Tensor, value).flatten().tolist() for value in (prepare.mean, prepare.std)]
    return [weights_digest(teacher.model), str(teacher.model), to_json(prepare.img_size), statistics, classifier]


def _single(plan: Plan) -> Teacher | Custom:
    assert isinstance(plan.recipe.teacher, Teacher | Custom)
    return plan.recipe.teacher


def _calibrated(config: Teacher | Custom) -> bool:
    return isinstance(config, Teacher) and config.calibrate


def _cache_folder() -> Path:
    return cache_folder().with_name("heads")
