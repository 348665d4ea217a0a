"""`--dry-run` and `--replay`: real steps, and nothing written but the teacher's export in the cache."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from distill.console import Console, clock
from distill.options import RunOptions
from distill.preflight import Plan
from distill.summary import pairs_table, rows
from distill.teaching import kept_head, make_teacher, zero_head
from distill.train import train

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.saved.reader import SavedOutputs


def rehearse(
    plan: Plan, options: RunOptions, accelerator: Accelerator, console: Console, saved: SavedOutputs | None = None
) -> None:
    """Take two real steps in a temporary folder and say what the whole run would take."""
    recipe, teacher = plan.recipe, None
    console.summary("rehearsal", rows(plan, accelerator), pairs_table(plan))
    if recipe.teacher and saved is None:
        head = zero_head(plan)
        if head:
            console.say("rehearsal: the teacher's head is not fitted but zero")
        layers = plan.objective.teacher_layers
        teacher = make_teacher(recipe, accelerator, console, layers=layers, head=head, images=plan.train)
    with tempfile.TemporaryDirectory() as aside:
        began = time.perf_counter()
        quiet = replace(options, log_every_steps=plan.layout.steps + 1)
        train(plan, teacher, accelerator, Path(aside), quiet, console, workers=0, saved=saved, stop_step=2)
        seconds = (time.perf_counter() - began) / min(2, plan.layout.steps)
    console.say(
        f"rehearsal: {plan.layout.batch_size / seconds:.0f} images/s over two steps, start-up included; "
        f"at most {clock(seconds * plan.layout.steps)} for {plan.layout.steps:,} steps. Nothing was written"
    )


def replay(
    plan: Plan,
    options: RunOptions,
    accelerator: Accelerator,
    console: Console,
    out: Path,
    saved: SavedOutputs | None = None,
) -> None:
    """Take the steps after the last checkpoint before `options.replay` again, up to that one; `out` is only read.

    NonFiniteLoss if that step's loss or gradient is not finite, whatever may be skipped.
    """
    recipe, teacher, step = plan.recipe, None, options.replay
    assert step is not None
    if recipe.teacher and saved is None:
        head, layers = kept_head(recipe, out), plan.objective.teacher_layers
        teacher = make_teacher(recipe, accelerator, console, layers=layers, head=head, images=plan.train)
    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder)
        (aside / "checkpoints").symlink_to((out / "checkpoints").absolute())
        every = replace(options, log_every_steps=1)
        train(plan, teacher, accelerator, aside, every, console, workers=0, saved=saved, stop_step=step)
        if accelerator.is_main_process:
            last = json.loads((aside / "metrics.jsonl").read_text().splitlines()[-1])
            terms = ", ".join(f"{name} {value:.6g}" for name, value in last.items() if name.startswith("loss"))
            console.say(f"step {step} is finite: {terms}. Nothing was written")
