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
from distill.affordable import Affordable, affordable
from distill.compiling import with_compiled_teacher
from distill.console import Console
from distill.estimate import Measured, computed, estimates
from distill.loader import train_batches
from distill.options import RunOptions
from distill.preflight import Plan
from distill.processes import from_main
from distill.recipe import Recipe
from distill.summary import pairs_table, rows
from distill.teaching import make_teacher, zero_head
from distill.train import evaluate, train
from distill.views import train_transform
from teachers.runtime import borrowed_cache

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.saved.reader import SavedOutputs
    from teachers.frozen_ensemble import AnyFrozen

EXPORTED_PARAMETERS = 20e6  # of teachers; exporting larger ones takes minutes at a CPU


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
    found = from_main(accelerator, lambda: affordable(plan, accelerator))
    if found.cost and found.cost.idle:
        idle = found.cost.idle
        console.say(f"rehearsal: {len(idle)} parameters get no gradient, such as {idle[0]}; they stay random")
    if not found.part:
        console.say(f"rehearsal: {_why_not(found, accelerator)}, so none is taken, and memory is computed from shapes")
        console.summary("the whole run", computed(plan, found, accelerator))
        console.say("rehearsal: nothing was written")
        return
    part = plan.layout.part
    small = replace(plan, layout=replace(plan.layout, batch_size=plan.layout.batch_size * found.part // part))
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(accelerator.device)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as aside, borrowed_cache(Path(aside)):
        teacher = _teacher(plan, options, accelerator, console) if plan.recipe.teacher and saved is None else None
        console.say(f"rehearsal: two steps{_smaller(found, part, accelerator)}")
        measured = _measure(small, teacher, options, accelerator, saved, Path(aside), began)
    every = options.eval_every_epochs
    console.summary("the whole run", estimates(plan, measured, accelerator, workers, found.cost, every))
    console.say("rehearsal: nothing was written")


def _why_not(found: Affordable, accelerator: Accelerator) -> str:
    if found.short_of == "memory":
        return f"not even the smallest step fits into the memory that is free on this {accelerator.device.type}"
    return "even the smallest step takes minutes on this cpu"


def _smaller(found: Affordable, part: int, accelerator: Accelerator) -> str:
    if found.part == part:
        return f" of {part} images at a time"
    kind = accelerator.device.type
    why = f"the {kind} has no memory for more" if found.short_of == "memory" else f"more would take long on this {kind}"
    return f" of {found.part} images at a time, not {part}, for {why}; time and memory are scaled up"


def _measure(
    plan: Plan,
    teacher: AnyFrozen | None,
    options: RunOptions,
    accelerator: Accelerator,
    saved: SavedOutputs | None,
    aside: Path,
    began: float,
) -> Measured:
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
    evaluated = time.perf_counter()
    return Measured(
        startup=trained - began - step,
        step=step,
        loading=_loading(plan),
        evaluation=evaluated - began_evaluation,
        asking=_asking(plan, teacher, accelerator),
        part=plan.layout.part,
        evaluated=len(some),
    )


def _teacher(plan: Plan, options: RunOptions, accelerator: Accelerator, console: Console) -> AnyFrozen:
    recipe, head = plan.recipe, zero_head(plan)
    assert recipe.teacher is not None
    if head:
        console.say("rehearsal: the teacher's head is not fitted but zero; the run fits it first")
    here = from_main(accelerator, recipe.teacher.weights_here)
    if not here:
        console.say(
            f"rehearsal: the weights of {recipe.teacher.name} ({recipe.teacher.weights_source()}) are not on this "
            "machine, so random ones stand in; the run itself fetches them"
        )
    recipe = with_compiled_teacher(recipe, options, accelerator)
    if accelerator.device.type == "cpu" and sizing.teacher(plan).parameters > EXPORTED_PARAMETERS:
        recipe, changed = _eager(recipe)
        if changed:
            console.say("rehearsal: the teacher runs eagerly; the run exports it to onnxruntime, and may be faster")
    console.say("rehearsal: starting the teacher")
    images = plan.train if here else None  # random weights need no real ones
    layers = plan.objective.teacher_layers
    return make_teacher(recipe, accelerator, console, layers=layers, head=head, images=images, pretrained=here)


def _eager(recipe: Recipe) -> tuple[Recipe, bool]:
    """The recipe with the teachers that choose by themselves how they run left as they are; whether any does."""

    def eager(teacher: Any) -> Any:
        if hasattr(teacher, "members"):
            return replace(teacher, members=tuple(map(eager, teacher.members)))
        return replace(teacher, runtime="eager") if teacher.runtime == "auto" else teacher

    changed = replace(recipe, teacher=eager(recipe.teacher))
    return changed, changed != recipe


def _asking(plan: Plan, teacher: AnyFrozen | None, accelerator: Accelerator) -> float:
    """Seconds that the teacher takes for the images of a part, where a head is to be fitted on what it says."""
    if teacher is None or plan.recipe.teacher is None or plan.recipe.teacher.head == "own":
        return 0.0
    views = torch.zeros(plan.layout.part, plan.recipe.student.in_chans, *plan.recipe.view_size, dtype=torch.uint8)
    began = time.perf_counter()
    with accelerator.autocast():
        logits = teacher(views.to(accelerator.device), plan.objective.teacher_layers).logits
    logits.sum().item()  # which waits for the device
    return time.perf_counter() - began


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
