"""`--replay`: the steps up to one that was not finite, taken again; nothing of the run is written."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from distill.compiling import with_compiled_teacher
from distill.console import Console
from distill.options import RunOptions
from distill.preflight import Plan
from distill.teaching import kept_head, make_teacher
from distill.train import train

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.saved.reader import SavedOutputs


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
        teacher = make_teacher(
            with_compiled_teacher(recipe, options, accelerator),
            accelerator,
            console,
            layers=layers,
            head=head,
            images=plan.train,
        )
    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder)
        (aside / "checkpoints").symlink_to((out / "checkpoints").absolute())
        every = replace(options, log_every_steps=1)
        train(plan, teacher, accelerator, aside, every, console, workers=0, saved=saved, stop_step=step)
        if accelerator.is_main_process:
            last = json.loads((aside / "metrics.jsonl").read_text().splitlines()[-1])
            terms = ", ".join(f"{name} {value:.6g}" for name, value in last.items() if name.startswith("loss"))
            console.say(f"step {step} is finite: {terms}. Nothing was written")
