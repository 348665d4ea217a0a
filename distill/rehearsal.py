"""`--dry-run`: two real steps, and nothing written but the teacher's export in the cache."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from distill.compiling import with_compiled_teacher
from distill.console import Console, clock
from distill.options import RunOptions
from distill.preflight import Plan
from distill.summary import pairs_table, rows
from distill.teaching import make_teacher, zero_head
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
        compiled = with_compiled_teacher(recipe, options, accelerator)
        teacher = make_teacher(compiled, accelerator, console, layers=layers, head=head, images=plan.train)
    with tempfile.TemporaryDirectory() as aside:
        began = time.perf_counter()
        quiet = replace(options, log_every_steps=plan.layout.steps + 1)
        train(plan, teacher, accelerator, Path(aside), quiet, console, workers=0, saved=saved, stop_step=2)
        seconds = (time.perf_counter() - began) / min(2, plan.layout.steps)
    console.say(
        f"rehearsal: {plan.layout.batch_size / seconds:.0f} images/s over two steps, start-up included; "
        f"at most {clock(seconds * plan.layout.steps)} for {plan.layout.steps:,} steps. Nothing was written"
    )
