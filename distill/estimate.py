"""From what a rehearsal measured to what the whole run takes: time, memory, disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from distill.checkpoint import KEPT
from distill.console import clock
from distill.preflight import Plan
from distill.sizing import Cost
from distill.summary import peak_bytes

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds, of one process. part: images of it in an accumulation step; evaluated: images that were evaluated."""

    startup: float
    step: float
    loading: float
    evaluation: float
    part: int
    evaluated: int


def estimates(
    plan: Plan, measured: Measured, accelerator: Accelerator, workers: int, cost: Cost | None, every: int
) -> list[tuple[str, str]]:
    """Names and values for a person. workers: loaders of each process; every: epochs between two evaluations."""
    layout, on_cpu = plan.layout, accelerator.device.type == "cpu"
    # Loaders work beside the step; on a CPU they take its cores.
    alone, loading = max(measured.step - measured.loading, 0.0), measured.loading / max(workers, 1)
    seconds = alone + loading if on_cpu or not workers else max(alone, loading)
    seconds *= layout.part / measured.part
    training = seconds * layout.steps
    evaluations = -(-layout.epochs // every)
    evaluating = evaluations * measured.evaluation * len(plan.val) / max(measured.evaluated, 1)
    return [
        ("start-up", f"{clock(measured.startup)}, the first step included"),
        (
            "speed",
            f"{_rate(layout.batch_size / seconds)} images/s, {seconds:,.2f} s for a step of {layout.batch_size:,}; "
            f"one loader makes {_rate(measured.part * layout.accumulate / measured.loading)} views/s",
        ),
        ("memory", _memory(plan, measured, accelerator, cost)),
        ("training", f"about {_long(training)} for {layout.steps:,} steps"),
        ("evaluation", f"about {_long(evaluating)} for {evaluations:,} times {len(plan.val):,} images"),
        ("disk", _disk(plan)),
    ]


def _memory(plan: Plan, measured: Measured, accelerator: Accelerator, cost: Cost | None) -> str:
    if accelerator.device.type == "cuda":
        held, where = float(torch.cuda.max_memory_allocated(accelerator.device)), "of the GPU"
    else:
        held, where = float(peak_bytes()), "in each process, beside its loaders"
    more = plan.layout.part - measured.part
    if not more or cost is None:
        return f"at most {held / 2**30:.1f} GiB {where}"
    whole = held + more * kept_bytes(cost, accelerator)
    return (
        f"{held / 2**30:.1f} GiB {where} for {measured.part} images at a time, about {whole / 2**30:.0f} GiB for "
        f"{plan.layout.part}; --gradient_accumulation_steps of accelerate launch divides them"
    )


def _disk(plan: Plan) -> str:
    student, checkpoint = disk_bytes(plan)
    whole = student + (KEPT + 1) * checkpoint
    return (
        f"about {_mebi(whole)}: {KEPT} checkpoints and one in the making of {_mebi(checkpoint)}, "
        f"student {_mebi(student)}"
    )


def disk_bytes(plan: Plan) -> tuple[int, int]:
    """(of the student's folder, of one checkpoint): weights, AdamW's two momenta, and the moving average if any."""
    objective = plan.objective
    state = sum(value.nbytes for value in objective.state_dict().values())
    momenta = 2 * sum(p.nbytes for p in objective.parameters() if p.requires_grad)
    student = sum(value.nbytes for value in objective.student.state_dict().values())
    return student, state + momenta + (student if plan.recipe.optim.ema_decay else 0)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _mebi(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _long(seconds: float) -> str:
    return f"{seconds / 86_400:,.1f} days" if seconds >= 2 * 86_400 else clock(seconds)


def kept_bytes(cost: Cost, accelerator: Accelerator) -> float:
    """What a step keeps of one image; mixed precision keeps half of it."""
    return cost.kept * (1.0 if accelerator.mixed_precision == "no" else 0.5)
