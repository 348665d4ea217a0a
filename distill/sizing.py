"""What one image costs in a training step, computed without computing: shapes alone go through the models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distill.losses import Address
from distill.objective import Objective
from distill.preflight import Plan
from students.outputs import Outputs, Shapes
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
        kept, flops = _student(plan, images)
    except Exception:  # whatever a loss of a user's own does with tensors that have no values
        return None
    return Cost(kept=kept / images, flops=3 * flops / images + _teacher_flops(plan))


def _student(plan: Plan, images: int) -> tuple[int, int]:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    recipe, labels = plan.recipe, None
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        weights = {fake.from_tensor(p).untyped_storage()._cdata for p in plan.objective.parameters()}
        views = torch.empty(images, recipe.student.in_chans, *recipe.view_size)
        if plan.labelled:
            shape = (images, recipe.student.known_classes()) if recipe.views.mixes else (images,)
            labels = torch.zeros(shape, dtype=torch.float32 if recipe.views.mixes else torch.long)
        target = said(plan.teacher, images, plan.objective) if plan.teacher else None
        address = Address(index=torch.arange(images), start=0, total=images, seed=0)
        with FlopCounterMode(display=False) as flops, _kept_for_backward() as kept:
            plan.objective.train()(views, target, labels, address)
    weights |= {p.untyped_storage()._cdata for p in plan.objective.parameters()}
    return sum(storage.nbytes() for place, storage in kept.items() if place not in weights), flops.get_total_flops()


def said(teacher: Shapes, images: int, objective: Objective) -> Outputs:
    """What a teacher of these shapes says of so many images, as zeros."""
    grids = {layer: torch.zeros(images, *teacher.grids[layer]) for layer in objective.teacher_layers}
    embedding = torch.zeros(images, teacher.embedding) if teacher.embedding else None
    return Outputs(torch.zeros(images, teacher.num_classes), None, embedding, grids)


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


def _teacher_flops(plan: Plan) -> float:
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


def parameters(objective: Objective) -> tuple[int, int]:
    """(of the student, of the student and the losses' projections)."""
    return tuple(sum(math.prod(p.shape) for p in m.parameters()) for m in (objective.student, objective))  # type: ignore[return-value]
