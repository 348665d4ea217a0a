"""How much of a step a rehearsal takes on this machine: all of it, as many of its images as fit, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from distill import sizing
from distill.preflight import Plan

if TYPE_CHECKING:
    from accelerate import Accelerator

CPU_FLOPS = 2.5e11  # of one step; more of them keep a person waiting at a CPU
MOST_CPU_FLOPS = 4e12  # of the smallest step that the losses allow; more are computed about and not taken
MEMORY_SHARE = 0.5  # of what is free, for what a step keeps: the teacher and the views need some too
STATE = 4  # times the weights that train: themselves, their gradient and AdamW's two momenta


@dataclass(frozen=True, kw_only=True)
class Affordable:
    """part: images at a time in a rehearsal, 0 where not even the fewest fit. short_of: of what there is too little.

    cost: of an image in the student and the losses; None where a loss of one's own must compute to know. held: bytes
    of the weights, of what trains them and of the teacher, before any image.
    """

    part: int
    short_of: Literal["", "memory", "patience"]
    cost: sizing.Cost | None
    held: float


def affordable(plan: Plan, accelerator: Accelerator) -> Affordable:
    """What an image costs, and how many of a part's images a rehearsal takes."""
    needed = max([2, *(loss.needs.images for loss in plan.objective.losses.values())])
    part = plan.layout.part
    fewest = min(needed + needed % 2, part)
    cost, teacher = sizing.cost(plan, fewest), sizing.teacher(plan)
    held = 4.0 * teacher.parameters + STATE * sum(p.nbytes for p in plan.objective.parameters() if p.requires_grad)
    if cost is None:
        return Affordable(part=part, short_of="", cost=None, held=held)
    free = _free_bytes(accelerator.device)
    in_memory = MEMORY_SHARE * free / kept_bytes(cost, accelerator)
    of_image, on_cpu = cost.flops + teacher.flops, accelerator.device.type == "cpu"
    in_time = CPU_FLOPS / of_image if on_cpu else float(part)
    short_of = "memory" if in_memory < in_time else "patience"
    if held > free or in_memory < fewest:
        return Affordable(part=0, short_of="memory", cost=cost, held=held)
    if on_cpu and fewest * of_image > MOST_CPU_FLOPS:
        return Affordable(part=0, short_of="patience", cost=cost, held=held)
    taken = part
    while taken > max(fewest, min(in_memory, in_time)):
        taken = max(taken // 2 // 2 * 2, fewest)
    return Affordable(part=taken, short_of=short_of if taken < part else "", cost=cost, held=held)


def kept_bytes(cost: sizing.Cost, accelerator: Accelerator) -> float:
    """What a step keeps of one image; mixed precision keeps half of it."""
    return cost.kept * (1.0 if accelerator.mixed_precision == "no" else 0.5)


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    import psutil

    return float(psutil.virtual_memory().available)
