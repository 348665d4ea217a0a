"""What a micro-batch of the student is taught with: views on the device, mixed, and what the teacher says of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distill.loader import Batch, train_batches
from distill.losses import Address
from distill.mixing import mix
from distill.preflight import Plan
from distill.views import derived_seed, train_transform
from students.draws import image_seeds
from students.outputs import Outputs

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.saved.reader import SavedOutputs
    from teachers.frozen_ensemble import AnyFrozen


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What one process takes in one accumulation step, on its device.

    images: [B, C, H, W]. labels: [B], [B, K] where they are mixed, None if unlabelled. target: what the teacher says,
    None without one. seed: of what the student's modules draw in torch's own way.
    """

    images: Tensor
    labels: Tensor | None
    target: Outputs | None
    address: Address
    seed: int


def prepared(
    plan: Plan,
    teacher: AnyFrozen | None,
    saved: SavedOutputs | None,
    accelerator: Accelerator,
    *,
    start_step: int,
    workers: int,
) -> Iterator[Prepared]:
    """The micro-batches of one process from a step on, each made when it is asked for.

    saved: speaks in the teacher's place. All that is drawn is a function of the step and the place in it, so that it
    does not matter when one is made. It is made on the device's current stream.
    """
    recipe, layout = plan.recipe, plan.layout
    config = recipe.student
    batches = train_batches(
        plan.train,
        train_transform(recipe.views, recipe.view_size, config.in_chans, config.input_mean, config.input_std),
        layout,
        seed=recipe.seed,
        process=accelerator.process_index,
        start_step=start_step,
        workers=workers,
    )
    steps = chain.from_iterable(repeat(step, layout.accumulate) for step in range(start_step, layout.steps))
    for step, batch in zip(steps, batches, strict=True):
        yield _prepare(plan, teacher, saved, accelerator, step, batch)


def _prepare(
    plan: Plan,
    teacher: AnyFrozen | None,
    saved: SavedOutputs | None,
    accelerator: Accelerator,
    step: int,
    batch: Batch,
) -> Prepared:
    recipe = plan.recipe
    images, labels, address = shown(plan, step, batch, accelerator.device)
    torch.manual_seed(derived_seed(recipe.seed, step, address.start, "teacher's modules"))  # one of your own may draw
    draw = derived_seed(recipe.seed, step, "teacher")
    with accelerator.autocast():
        online = teacher(images, plan.objective.teacher_layers, draw) if teacher else None
    target = saved(batch) if saved else online
    seed = derived_seed(recipe.seed, step, address.start, "other modules")
    return Prepared(images=images, labels=labels, target=target, address=address, seed=seed)


def shown(plan: Plan, step: int, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor | None, Address]:
    """A loader's batch as a step shows it: images and labels on the device, mixed if the recipe mixes, and the address.

    It is by that address that losses and the student draw.
    """
    recipe, layout = plan.recipe, plan.layout
    # Pinned memory that is copied from is not given away before its copy is done, on whatever stream; torch sees to it.
    images = batch.views.to(device, non_blocking=True)
    labels = None if batch.labels is None else batch.labels.to(device, non_blocking=True)
    if recipe.views.mixes:
        where = {"seed": recipe.seed, "epoch": batch.epoch, "position": batch.position}
        images, labels = mix(images, labels, recipe.views, recipe.student.known_classes(), **where)
    place = batch.position % layout.batch_size
    address = Address(
        index=batch.index.to(device, non_blocking=True),
        start=place,
        total=layout.batch_size,
        seed=derived_seed(recipe.seed, step, "losses"),
        progress=step / layout.steps,
        draws=image_seeds(derived_seed(recipe.seed, step, "dropout"), place, len(images), device),
    )
    return images, labels, address
