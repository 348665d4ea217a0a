"""`--dry-run`: two real steps, and nothing written but the teacher's export in the cache."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from distill.console import Console, clock
from distill.options import RunOptions
from distill.preflight import Plan
from distill.summary import rows
from distill.teaching import make_teacher
from distill.train import train
from teachers import Head

if TYPE_CHECKING:
    from accelerate import Accelerator


def rehearse(plan: Plan, options: RunOptions, accelerator: Accelerator, console: Console) -> None:
    """Take two real steps in a temporary folder and say what the whole run would take."""
    recipe, teacher = plan.recipe, None
    console.summary("rehearsal", rows(plan, accelerator))
    if recipe.teacher:
        head = None
        if recipe.teacher.head == "fit" and plan.teacher:
            console.say("rehearsal: the teacher's head is not fitted but zero")
            shape = plan.teacher.num_classes, plan.teacher.embedding
            head = Head(torch.zeros(shape), torch.zeros(shape[0]), l2=0, heldout_top1=0, heldout_nll=0)
        teacher = make_teacher(recipe, accelerator, console, layers=plan.objective.teacher_layers, head=head)
    with tempfile.TemporaryDirectory() as aside:
        began = time.perf_counter()
        quiet = replace(options, log_every_steps=plan.layout.steps + 1)
        train(plan, teacher, accelerator, Path(aside), quiet, console, workers=0, stop_step=2)
        seconds = (time.perf_counter() - began) / min(2, plan.layout.steps)
    console.say(
        f"rehearsal: {plan.layout.batch_size / seconds:.0f} images/s over two steps, start-up included; "
        f"at most {clock(seconds * plan.layout.steps)} for {plan.layout.steps:,} steps. Nothing was written"
    )
