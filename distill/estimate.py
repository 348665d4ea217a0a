"""From what a rehearsal measured to what the whole run takes: time, memory, disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from distill.affordable import Affordable, kept_bytes
from distill.checkpoint import KEPT
from distill.console import clock
from distill.preflight import Plan
from distill.sizing import Cost
from distill.summary import peak_bytes
from teachers.ensemble import members

if TYPE_CHECKING:
    from accelerate import Accelerator

TOO_MANY_DAYS = 2 * 365


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds, of one process. part: images of it in an accumulation step; evaluated: images that were evaluated.

    asking: of the teacher alone about the images of a part; 0 without a teacher.
    """

    startup: float
    step: float
    loading: float
    evaluation: float
    asking: float
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
        *_head(plan, measured, workers),
        ("training", f"about {duration(training, accelerator)} for {layout.steps:,} steps"),
        ("evaluation", f"about {duration(evaluating, accelerator)} for {evaluations:,} times {len(plan.val):,} images"),
        ("disk", _disk(plan)),
    ]


def computed(plan: Plan, found: Affordable, accelerator: Accelerator) -> list[tuple[str, str]]:
    """As `estimates`, of a step that is too large to be taken here: what follows from shapes alone."""
    assert found.cost is not None
    whole = found.held + plan.layout.part * kept_bytes(found.cost, accelerator)
    return [
        ("speed", f"not known here: no step was taken on this {accelerator.device.type}"),
        (
            "memory",
            f"about {_mebi(whole)} for {plan.layout.part} images at a time, {_mebi(found.held)} of it for weights and "
            f"what trains them; computed, not measured",
        ),
        ("training", f"not known here, for {plan.layout.steps:,} steps"),
        ("disk", _disk(plan)),
    ]


def _head(plan: Plan, measured: Measured, workers: int) -> list[tuple[str, str]]:
    """A row for the features that heads are fitted on; none where none is."""
    fitted = [m for m in members(plan.recipe.teacher) if m.head == "fit"] if plan.recipe.teacher else []
    if not fitted or not measured.asking:
        return []
    images = max(min(member.fit_images, len(plan.train)) for member in fitted)
    loading = measured.loading / (measured.part * plan.layout.accumulate) / max(workers, 1)
    seconds = 2 * images * (measured.asking / measured.part + len(fitted) * loading)
    return [("head", f"about {clock(seconds)} for the teacher's features of 2 × {images:,} views, and then the fit")]


def _memory(plan: Plan, measured: Measured, accelerator: Accelerator, cost: Cost | None) -> str:
    if accelerator.device.type == "cuda":
        held, where = float(torch.cuda.max_memory_allocated(accelerator.device)), "of the GPU"
    else:
        held, where = float(peak_bytes()), "in each process beside its loaders"
    more = plan.layout.part - measured.part
    if not more or cost is None:
        return f"at most {_mebi(held)} {where}"
    whole = held + more * kept_bytes(cost, accelerator)
    return (
        f"{_mebi(held)} {where} with {measured.part} images at a time, about {_mebi(whole)} with {plan.layout.part}; "
        f"--gradient_accumulation_steps of accelerate launch divides them"
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


def duration(seconds: float, accelerator: Accelerator) -> str:
    """Seconds as a person plans with them."""
    days = seconds / 86_400
    if days >= TOO_MANY_DAYS:
        return f"{days / 365:,.0f} years, too long on this {accelerator.device.type},"
    return f"{days:,.1f} days" if days >= 2 else clock(seconds)
