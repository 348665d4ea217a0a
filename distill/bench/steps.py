"""Training steps on batches that lie ready: what the loop computes, without loader, log and progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distill import compiling
from distill.loader import Batch, train_batches
from distill.losses import Address
from distill.objective import Objective
from distill.optim import build_optimizer
from distill.preflight import Plan
from distill.prepared import shown
from distill.recipe import Recipe
from distill.views import train_transform
from students.outputs import Outputs

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.options import RunOptions

Teaching = Callable[["Ready"], Outputs | None]


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A batch on the device: as the loader gave it, mixed where the recipe mixes, and with the losses' address."""

    batch: Batch
    images: Tensor
    labels: Tensor | None
    plain: Tensor
    address: Address


def ready_batches(plan: Plan, count: int, device: torch.device) -> list[Ready]:
    """The first global batches of a plan, as its first steps see them."""
    recipe, student = plan.recipe, plan.recipe.student
    transform = train_transform(recipe.views, recipe.view_size, student.in_chans, student.input_mean, student.input_std)
    batches = train_batches(plan.train, transform, plan.layout, seed=recipe.seed, process=0, start_step=0, workers=0)
    found = []
    for number, batch in zip(range(count), batches, strict=False):
        images, labels, address = shown(plan, number, batch, device)
        plain = batch.views.to(device)
        found.append(Ready(batch=batch, images=images, labels=labels, plain=plain, address=address))
    return found


def step(
    recipe: Recipe,
    plan: Plan,
    teach: Teaching,
    batches: Sequence[Ready],
    accelerator: Accelerator,
    options: RunOptions,
    *,
    plain: bool = False,
) -> Callable[[], Tensor]:
    """A training step of a fresh student of the recipe, which returns its loss. plain: on images that are not mixed."""
    torch.manual_seed(recipe.seed)
    shapes = plan.teacher if recipe.teacher else None
    objective = Objective(recipe.student.build(), recipe.losses, shapes, images=len(plan.train)).train()
    if compiling.asked(options, accelerator):
        compiling.compile_blocks(objective.student, compiling.take_over(accelerator))
    optimizer = build_optimizer(objective, recipe.optim, accelerator.device)
    prepared, optimizer = accelerator.prepare(objective, optimizer)
    turns = cycle(batches)

    def take() -> Tensor:
        ready = next(turns)
        images, labels = (ready.plain, ready.batch.labels) if plain else (ready.images, ready.labels)
        labels = None if labels is None else labels.to(images.device)
        said = teach(ready)
        losses = prepared(images, said, labels, ready.address)
        accelerator.backward(losses["total"])
        optimizer.step()
        optimizer.zero_grad()
        return losses["total"].detach()

    return take
