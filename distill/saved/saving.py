"""One saving, from a recipe to the last shard: ask the teacher once about every view, and keep what it says."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator

from distill import preflight
from distill.console import Console
from distill.loader import Batch, batches_at, cores, default_workers
from distill.mixing import mix
from distill.preflight import Plan
from distill.processes import from_main, meet
from distill.recipe import Recipe
from distill.saved.answers import Answers
from distill.saved.fit import check_fits, check_glimpse, unserved
from distill.saved.manifest import FILE, Manifest, Shard, fingerprint, glimpse, versions
from distill.saved.writer import check_room, clear, free, missing, size, write_shards
from distill.teaching import HEADS, fitted_head, make_teacher
from distill.views import train_transform
from teachers.ensemble import Ensemble
from teachers.runtime import weights_digest

if TYPE_CHECKING:
    from distill.saved.command import SaveOptions
    from teachers.frozen_ensemble import AnyFrozen


def save(recipe: Recipe, options: SaveOptions, name: str) -> None:
    """Save the outputs of a recipe's teacher into `options.out`, or saved/<name>. ValueError for a user's errors."""
    if recipe.teacher is None:
        raise ValueError("the recipe has no teacher, so there is nothing to save; name one with teacher=Teacher(...)")
    if isinstance(recipe.teacher, Ensemble) and recipe.teacher.draw == "random":
        raise ValueError(
            "saved outputs keep one answer a view, and this ensemble draws who answers at every step; "
            "use --teacher.draw mean, or train without --saved"
        )
    accelerator = Accelerator()
    if accelerator.device.type == "cpu":
        torch.set_num_threads(options.threads or max(cores() // _processes_here(), 1))
    console = Console(main=accelerator.is_main_process)
    plan = preflight.check(recipe)
    folder = Path(options.out or f"saved/{name}")
    manifest = planned(plan, options, accelerator)
    _say_what(manifest, plan, folder, console)
    shards = from_main(accelerator, lambda: _claim(folder, manifest, plan, make=not options.dry_run))
    if options.dry_run:
        console.say("dry run: nothing was saved")
        return
    if shards:
        teacher = _teacher(plan, folder, accelerator, console, _workers(options))
        _begin(folder, manifest, teacher, accelerator)
        try:
            _ask(plan, manifest, shards, teacher, accelerator, console, _workers(options))
        except OSError as error:  # others fill the same disk
            raise ValueError(
                f"{folder} cannot be written ({error.strerror or error}); mend that, and the same command goes on"
            ) from error
    meet(accelerator)
    if accelerator.is_main_process:
        clear(folder)
    console.say(f"saved: {folder}   train from it: {shlex.join(['--saved', str(folder), *_without(plan, manifest)])}")


def _without(plan: Plan, manifest: Manifest) -> list[str]:
    """The options that leave out the losses which these outputs are not enough for."""
    names = unserved(plan, embedding=bool(manifest.answers.embedding))
    return [word for name in names for word in (f"--losses.{name}.weight", "0")]


def planned(plan: Plan, options: SaveOptions, accelerator: Accelerator) -> Manifest:
    """The manifest that a save would write, but for the digest of the weights. ValueError for options out of range."""
    assert plan.teacher is not None
    batch_size, classes = plan.layout.batch_size, plan.teacher.num_classes
    epochs = plan.layout.epochs if options.epochs is None else options.epochs
    at_once = batch_size if options.images_at_once is None else options.images_at_once
    for name, value in (("epochs", epochs), ("shard-images", options.shard_images), ("images-at-once", at_once)):
        if value < 1:
            raise ValueError(f"--{name} is {value}; use 1 or more")
    if batch_size % at_once or (plan.recipe.views.mixes and at_once % 2):
        raise ValueError(
            f"--images-at-once is {at_once} and the recipe's batch is {batch_size}; use a number that divides it"
            + (", and an even one, for mixing" if plan.recipe.views.mixes else "")
        )
    k = options.k if options.k is not None else "all" if classes <= 100 else 10 if classes <= 1000 else 100
    return Manifest(
        fingerprint=fingerprint(plan),
        glimpse=glimpse(plan),
        answers=Answers(
            num_classes=classes,
            k=None if k == "all" else k,
            dtype=options.dtype,
            embedding=plan.teacher.embedding if options.embedding else 0,
        ),
        epochs=epochs,
        positions=plan.layout.steps_per_epoch * batch_size,
        shard_images=max(options.shard_images // batch_size, 1) * batch_size,
        weights="",
        made_with={
            "images_at_once": at_once,
            "mixed_precision": str(accelerator.mixed_precision),
            "versions": versions(),
        },
    )


def _say_what(manifest: Manifest, plan: Plan, folder: Path, console: Console) -> None:
    kept = manifest.answers
    what = f"all {kept.num_classes:,}" if kept.k is None else f"{kept.k} of {kept.num_classes:,}"
    rows = [
        ("teacher", plan.recipe.teacher.name if plan.recipe.teacher else ""),
        ("of each view", f"{what} logits{' and the embedding' if kept.embedding else ''} in {kept.dtype}"),
        ("views", f"{manifest.epochs:,} epochs × {manifest.positions:,} images"),
        ("size", f"{size(manifest.num_bytes)}: {kept.bytes_per_image:,} bytes an image and epoch"),
        ("disk", f"{size(free(folder))} left"),
    ]
    console.summary(str(folder), rows)
    for line in unserved(plan, embedding=bool(kept.embedding)).values():
        console.say(f"note: {line}")


def _claim(folder: Path, manifest: Manifest, plan: Plan, *, make: bool) -> list[Shard]:
    """The shards that are still to be written. ValueError if they cannot be, or do not belong with what is there."""
    _check_theirs(folder, manifest, plan)
    shards = missing(manifest, folder)
    check_room(shards, manifest.answers.bytes_per_image, folder)
    if make:
        preflight.check_folder(folder)
    return shards


def _check_theirs(folder: Path, manifest: Manifest, plan: Plan) -> None:
    """ValueError if the folder holds other things, or outputs that are not the beginning of these."""
    if not (folder / FILE).is_file():
        # A head is fitted before the manifest is written, and a hidden file is nobody's work.
        files = list(folder.iterdir()) if folder.is_dir() else []
        if any(not path.name.startswith((HEADS, ".")) for path in files):
            raise ValueError(f"{folder} is not empty and holds no saved outputs; choose another with --out")
        for left in folder.glob(f"{HEADS}*"):
            left.unlink(missing_ok=True)  # of a save that was broken off: nothing says which teacher it belongs to
        return
    found = Manifest.read(folder)
    check_fits(folder, found.fingerprint, manifest.fingerprint)
    check_fits(folder, _kept(found), _kept(manifest))
    check_glimpse(folder, found, plan)
    if found.epochs > manifest.epochs:
        raise ValueError(
            f"{folder} holds {found.epochs} epochs already; use --epochs {found.epochs} or more, or another --out"
        )


def _kept(manifest: Manifest) -> dict[str, Any]:
    value = manifest.as_json()
    return {name: value[name] for name in ("answers", "positions", "shard_images", "made_with")}


def _teacher(plan: Plan, folder: Path, accelerator: Accelerator, console: Console, workers: int) -> AnyFrozen:
    head = fitted_head(plan, folder, accelerator, console, workers=workers)
    teacher = make_teacher(plan.recipe, accelerator, console, layers=(), head=head, images=plan.train)
    console.say(f"teacher runs on {teacher.runtime_note}")
    return teacher


def _begin(folder: Path, manifest: Manifest, teacher: AnyFrozen, accelerator: Accelerator) -> None:
    """Write the manifest, or with more epochs again. ValueError if the teacher's weights are not those of before."""
    weights = weights_digest(teacher)

    def begin() -> None:
        if (folder / FILE).is_file():
            check_fits(folder, {"weights": Manifest.read(folder).weights}, {"weights": weights})
        replace(manifest, weights=weights).write(folder)

    from_main(accelerator, begin)


def _ask(
    plan: Plan,
    manifest: Manifest,
    shards: Sequence[Shard],
    teacher: AnyFrozen,
    accelerator: Accelerator,
    console: Console,
    workers: int,
) -> None:
    """Write this process's shards of those that are missing."""
    recipe, student = plan.recipe, plan.recipe.student
    own = shards[accelerator.process_index :: accelerator.num_processes]
    at_once = manifest.made_with["images_at_once"]
    parts = [(s.epoch, s.start + first) for s in own for first in range(0, s.rows, at_once)]
    transform = train_transform(recipe.views, recipe.view_size, student.in_chans, student.input_mean, student.input_std)
    batches = batches_at(
        lambda: parts, plan.layout, plan.train, transform, size=at_once, seed=recipe.seed, workers=workers
    )
    with console.counting("teacher's outputs", sum(shard.rows for shard in own)) as counter, torch.no_grad():

        def rows(batch: Batch) -> np.ndarray:
            images = batch.views.to(accelerator.device, non_blocking=True)
            if recipe.views.mixes:
                address = {"seed": recipe.seed, "epoch": batch.epoch, "position": batch.position}
                images, _ = mix(images, None, recipe.views, student.known_classes(), **address)
            with accelerator.autocast():
                outputs = teacher(images)
            counter.advance(len(images))
            return manifest.answers.rows(outputs)

        write_shards(own, batches, rows)


def _processes_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _workers(options: SaveOptions) -> int:
    return default_workers(_processes_here()) if options.workers is None else options.workers
