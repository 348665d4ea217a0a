"""What one image costs in a training step, computed without computing: shapes alone go through the models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distill.losses import Address
from distill.objective import Objective
from distill.preflight import Plan
from students.outputs import Outputs
from teachers.ensemble import members
from teachers.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one image in one step, in float32.

    kept: bytes that the student and the losses keep for the backward pass. flops: their floating-point operations,
    forward and backward, a multiplication and an addition being two. idle: names of the parameters that get no
    gradient, which stay random and stop distributed training.
    """

    kept: float
    flops: float
    idle: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TeacherCost:
    """flops: floating-point operations of the forward passes on one image, of all members. parameters: of all."""

    flops: float
    parameters: int


def cost(plan: Plan, images: int) -> Cost | None:
    """The cost of an image in a batch of `images`; None where a loss of one's own looks at values, so must compute."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    recipe, count = plan.recipe, len(plan.train)
    try:
        with torch.device("meta"):
            objective = Objective(recipe.student.build(), recipe.losses, plan.teacher, images=count).train()
        with FakeTensorMode(allow_non_fake_inputs=True):
            objective.to_empty(device="cpu")
            weights = {tensor.untyped_storage()._cdata for tensor in objective.parameters()}
            counter = FlopCounterMode(display=False, custom_mapping=_attention_on_a_cpu())
            with counter as flops, _kept_for_backward() as kept:
                losses_on_blank_images(plan, objective, images)["total"].backward()
    except Exception:  # whatever a loss of a user's own does with tensors that have no values
        return None
    size = sum(storage.nbytes() for place, storage in kept.items() if place not in weights)
    return Cost(kept=size / images, flops=flops.get_total_flops() / images, idle=without_gradient(objective))


def _attention_on_a_cpu() -> dict[Any, Any]:
    """Formulas, for torch's counter, of what torch 2.10 does not count."""
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

    def forward(query, key, value, *args, **kwargs) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(gradient, query, key, value, *args, **kwargs) -> int:
        return sdpa_backward_flop_count(gradient, query, key, value)

    aten = torch.ops.aten
    return {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }


def losses_on_blank_images(plan: Plan, objective: Objective, images: int) -> dict[str, Tensor]:
    """The losses of a training step on blank images, of which the teacher says nothing."""
    recipe, teacher, labels = plan.recipe, plan.teacher, None
    views = torch.zeros(images, recipe.student.in_chans, *recipe.view_size)
    if plan.labelled and recipe.views.mixes:
        labels = torch.zeros(images, recipe.student.known_classes())
    elif plan.labelled:
        labels = torch.zeros(images, dtype=torch.long)
    said = None
    if teacher:
        grids = {layer: torch.zeros(images, *teacher.grids[layer]) for layer in objective.teacher_layers}
        embedding = torch.zeros(images, teacher.embedding) if teacher.embedding else None
        said = Outputs(torch.zeros(images, teacher.num_classes), None, embedding, grids)
    address = Address(index=torch.arange(images), start=0, total=images, seed=0)
    return objective(views, said, labels, address)


def without_gradient(objective: Objective) -> tuple[str, ...]:
    """Names of the parameters that train but got no gradient in the backward pass that was done."""
    return tuple(name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None)


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


def teacher(plan: Plan) -> TeacherCost:
    """What the teachers take; modules of one's own are not counted."""
    from torch.utils.flop_counter import FlopCounterMode

    from teachers import own_student, source

    total, parameters = 0.0, 0
    for member in members(plan.recipe.teacher) if plan.recipe.teacher else ():
        if not isinstance(member, Teacher) or own_student.folder(member):
            continue
        planned = source.plan(member)
        image = torch.empty(1, len(source.statistics(planned)[0]), *planned.img_size, device="meta")
        with torch.no_grad(), FlopCounterMode(display=False) as flops:
            planned.skeleton(image)
        total += flops.get_total_flops()
        parameters += sum(parameter.numel() for parameter in planned.skeleton.parameters())
    return TeacherCost(flops=total, parameters=parameters)
