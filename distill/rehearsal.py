"""`--dry-run`: two real steps in a temporary folder, and what the whole run would take."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from distill import sizing
from distill.compiling import with_compiled_teacher
from distill.console import Console
from distill.estimate import Measured, estimates, kept_bytes
from distill.loader import train_batches
from distill.options import RunOptions
from distill.preflight import Plan
from distill.processes import from_main
from distill.summary import pairs_table, rows
from distill.teaching import make_teacher, zero_head
from distill.train import evaluate, train
from distill.views import train_transform
from teachers.runtime import borrowed_cache

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.saved.reader import SavedOutputs
    from teachers.frozen_ensemble import AnyFrozen

CPU_FLOPS = 5e11  # of one step; more of them keep a person waiting at a CPU
MEMORY_SHARE = 0.5  # of what is free, for what a step keeps: the teacher and the views need some too


def rehearse(
    plan: Plan,
    options: RunOptions,
    accelerator: Accelerator,
    console: Console,
    saved: SavedOutputs | None = None,
    *,
    workers: int,
) -> None:
    """Take two real steps in a temporary folder and say what the whole run would take."""
    console.summary("rehearsal", rows(plan, accelerator), pairs_table(plan))
    cost, part = from_main(accelerator, lambda: affordable(plan, accelerator))
    small = replace(plan, layout=replace(plan.layout, batch_size=plan.layout.batch_size * part // plan.layout.part))
    if part < plan.layout.part:
        console.say(
            f"rehearsal: {part} images at a time instead of {plan.layout.part}, which need more memory or patience "
            f"than a rehearsal has on this {accelerator.device.type}; what follows is estimated from them"
        )
    if cost and cost.idle:
        console.say(f"rehearsal: {len(cost.idle)} parameters get no gradient, such as {cost.idle[0]}; they stay random")
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(accelerator.device)
    with tempfile.TemporaryDirectory() as aside, borrowed_cache(Path(aside)):
        measured = _measure(small, options, accelerator, console, saved, Path(aside))
    console.summary("the whole run", estimates(plan, measured, accelerator, workers, cost, options.eval_every_epochs))
    if plan.recipe.teacher and plan.recipe.teacher.head == "fit" and saved is None:
        console.say("rehearsal: fitting the teacher's head comes before it and is not counted")
    console.say("rehearsal: nothing was written")


def _measure(
    plan: Plan,
    options: RunOptions,
    accelerator: Accelerator,
    console: Console,
    saved: SavedOutputs | None,
    aside: Path,
) -> Measured:
    began = time.perf_counter()
    teacher = _teacher(plan, options, accelerator, console) if plan.recipe.teacher and saved is None else None
    every = replace(options, log_every_steps=1, trackers=())
    silent = Console(main=False)  # what it would say of the time left counts the first step, too
    student = train(plan, teacher, accelerator, aside, every, silent, workers=0, saved=saved, stop_step=2)
    trained = time.perf_counter()
    ends = from_main(accelerator, lambda: _step_ends(aside / "metrics.jsonl"))
    step = ends[-1] - ends[0] if len(ends) > 1 else ends[0]
    some = range(min(plan.layout.part * plan.layout.processes, len(plan.val)))
    few = replace(plan, val=cast(Any, torch.utils.data.Subset(cast(Any, plan.val), some)))
    began_evaluation = time.perf_counter()
    if plan.val_labelled or teacher:
        evaluate(few, student, teacher, accelerator, workers=0)
    return Measured(
        startup=trained - began - step,
        step=step,
        loading=_loading(plan),
        evaluation=time.perf_counter() - began_evaluation,
        part=plan.layout.part,
        evaluated=len(some),
    )


def _teacher(plan: Plan, options: RunOptions, accelerator: Accelerator, console: Console) -> AnyFrozen:
    recipe, head = plan.recipe, zero_head(plan)
    assert recipe.teacher is not None
    if head:
        console.say("rehearsal: the teacher's head is not fitted but zero")
    here = from_main(accelerator, recipe.teacher.weights_here)
    if not here:
        console.say(
            f"rehearsal: the weights of {recipe.teacher.name} ({recipe.teacher.weights_source()}) are not on this "
            "machine, so random ones stand in; the run itself fetches them"
        )
    layers = plan.objective.teacher_layers
    compiled = with_compiled_teacher(recipe, options, accelerator)
    return make_teacher(compiled, accelerator, console, layers=layers, head=head, images=plan.train, pretrained=here)


def affordable(plan: Plan, accelerator: Accelerator) -> tuple[sizing.Cost | None, int]:
    """What an image costs, and how many of a part's images a rehearsal takes: all, or as many as fit."""
    needed = max([2, *(loss.needs.images for loss in plan.objective.losses.values())])
    part = plan.layout.part
    cost = sizing.cost(plan, min(needed + needed % 2, part))
    if cost is None:
        return None, part
    on_cpu = accelerator.device.type == "cpu"
    fits = MEMORY_SHARE * _free_bytes(accelerator.device) / kept_bytes(cost, accelerator)
    fits = min(fits, CPU_FLOPS / (cost.flops + sizing.teacher_flops(plan))) if on_cpu else fits
    return cost, min(part, max(needed + needed % 2, int(fits) // 2 * 2))


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    import psutil

    return float(psutil.virtual_memory().available)


def _step_ends(metrics: Path) -> list[float]:
    """Seconds from the start of training to the end of each step."""
    return [json.loads(line)["seconds"] for line in metrics.read_text().splitlines()]


def _loading(plan: Plan) -> float:
    """Seconds in which one loader makes the views of one step's images of a process."""
    recipe = plan.recipe
    config = recipe.student
    transform = train_transform(recipe.views, recipe.view_size, config.in_chans, config.input_mean, config.input_std)
    batches = train_batches(plan.train, transform, plan.layout, seed=recipe.seed, process=0, start_step=0, workers=0)
    began = time.perf_counter()
    for _ in range(plan.layout.accumulate):
        next(batches)
    return time.perf_counter() - began
