"""What one image costs in a training step, computed without computing: shapes alone go through the models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distill.losses import Address
from distill.preflight import Plan
from students.outputs import Outputs
from teachers.ensemble import members
from teachers.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one image in one step, in float32.

    kept: bytes that the student and the losses keep for the backward pass. flops: floating-point operations, a
    multiplication and an addition being two; the backward pass counts as two forward passes.
    """

    kept: float
    flops: float


def cost(plan: Plan, images: int) -> Cost | None:
    """The cost of an image in a batch of `images`; None where a loss of one's own looks at values, so must compute."""
    try:
        kept, flops = of_student(plan, images)
    except Exception:  # whatever a loss of a user's own does with tensors that have no values
        return None
    return Cost(kept=kept / images, flops=3 * flops / images + teacher_flops(plan))


def of_student(plan: Plan, images: int) -> tuple[int, int]:
    """(bytes kept, floating-point operations) of the forward pass of student and losses on so many images."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    weights = list(plan.objective.parameters())
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        own = {t.untyped_storage()._cdata for p in weights for t in (p, fake.from_tensor(p))}
        with FlopCounterMode(display=False) as flops, _kept_for_backward() as kept:
            losses_of(plan, images)
    return sum(storage.nbytes() for place, storage in kept.items() if place not in own), flops.get_total_flops()


def losses_of(plan: Plan, images: int) -> dict[str, Tensor]:
    """The losses of a training step on blank images, of which the teacher says nothing."""
    recipe, teacher, labels = plan.recipe, plan.teacher, None
    views = torch.zeros(images, recipe.student.in_chans, *recipe.view_size)
    if plan.labelled and recipe.views.mixes:
        labels = torch.zeros(images, recipe.student.known_classes())
    elif plan.labelled:
        labels = torch.zeros(images, dtype=torch.long)
    said = None
    if teacher:
        grids = {layer: torch.zeros(images, *teacher.grids[layer]) for layer in plan.objective.teacher_layers}
        embedding = torch.zeros(images, teacher.embedding) if teacher.embedding else None
        said = Outputs(torch.zeros(images, teacher.num_classes), None, embedding, grids)
    address = Address(index=torch.arange(images), start=0, total=images, seed=0)
    return plan.objective.train()(views, said, labels, address)


@contextmanager
def _kept_for_backward() -> Iterator[dict[int, Any]]:
    """The storages that autograd keeps within, each once; they are held, so that none's place is taken by another."""
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def teacher_flops(plan: Plan) -> float:
    """Of its forward on one image; modules of one's own are not counted."""
    from torch.utils.flop_counter import FlopCounterMode

    from teachers import own_student, source

    total = 0.0
    for member in members(plan.recipe.teacher) if plan.recipe.teacher else ():
        if not isinstance(member, Teacher) or own_student.folder(member):
            continue
        planned = source.plan(member)
        image = torch.empty(1, len(source.statistics(planned)[0]), *planned.img_size, device="meta")
        with torch.no_grad(), FlopCounterMode(display=False) as flops:
            planned.skeleton(image)
        total += flops.get_total_flops()
    return total
