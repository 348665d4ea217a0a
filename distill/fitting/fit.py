"""`teacher fit`: a linear head on frozen features, calibrated, saved as a folder that timm loads."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from distill.console import Console
from distill.data import Images
from distill.fitting.features import features_of
from distill.fitting.folder import Made, claim, finish, set_head
from distill.fitting.options import Fit
from distill.fitting.task import Task, open_task
from distill.recipe import Optim, Recipe, to_json
from teachers import FrozenTeacher, Head, source
from teachers.streamed import fit_streamed

if TYPE_CHECKING:
    from accelerate import Accelerator


def fit(
    recipe: Recipe, options: Fit, out: Path, accelerator: Accelerator, console: Console, *, command: str, workers: int
) -> Path:
    """Fit a head for the recipe's teacher and return its folder. ValueError for what cannot be, before the features."""
    # A batch of the check alone: mixing wants pairs in each process.
    nominal = Optim(epochs=1, warmup_epochs=0, batch_size=2 * accelerator.num_processes)
    task = open_task(
        recipe, heldout=options.heldout, optim=nominal, images=options.images, processes=accelerator.num_processes
    )
    settings = _settings(task, options)
    if claim(out, settings, accelerator, again=False) == "finished":
        console.say(f"{out} is finished; nothing to do. See {out / 'README.md'}, or choose another folder with --out")
        return out
    teacher = task.teacher.build()
    head = fit_head_of(
        task,
        teacher,
        task.train,
        task.held_out,
        accelerator,
        console,
        epochs=options.epochs,
        workers=workers,
        keep=options.keep_features,
    )
    teacher.model.cpu()
    set_head(teacher.model, head, source.plan(task.teacher))
    how = (
        f"a linear head on frozen features of the plain view and {options.epochs} random views of each image; "
        f"L2 {head.l2:g} was chosen on the held-out images",
    )
    made = Made(model=teacher.model, temperature=head.temperature, how=how)
    finish(out, settings, task, made, accelerator, console, command=command, workers=workers)
    return out


def fit_head_of(
    task: Task,
    teacher: FrozenTeacher,
    images: Images,
    held_out: np.ndarray,
    accelerator: Accelerator,
    console: Console,
    *,
    epochs: int,
    workers: int,
    keep: bool,
) -> Head:
    """A head on a teacher's features of images, the same on every process; its weights do not know held_out [N]."""
    with console.rich.status("starting the teacher"), accelerator.autocast():
        teacher.start(accelerator.device)
    console.say(f"teacher runs on {teacher.runtime_note}")

    def summed(sums: torch.Tensor) -> torch.Tensor:
        total = accelerator.reduce(sums, reduction="sum")
        assert isinstance(total, torch.Tensor)
        return total

    with features_of(
        task, teacher, images, held_out, accelerator, console, epochs=epochs, workers=workers, keep=keep
    ) as features:
        title = f"fitting the head on {len(images) * (epochs + 1):,} rows of {features.width:,} features"
        passes = itertools.count(1)
        with console.rich.status(title) as status:
            head = fit_streamed(
                features,
                num_classes=len(task.classes),
                device=accelerator.device,
                reduce=summed,
                advance=lambda: status.update(f"{title}, pass {next(passes)}"),
            )
    console.say(
        f"head: held-out top-1 {head.heldout_top1:.1%}, nll {head.heldout_nll:.3f}, L2 {head.l2:g}, "
        f"temperature {head.temperature:.3f}"
    )
    return head


def _settings(task: Task, options: Fit) -> Any:
    """What decides the head, as JSON values."""
    recipe = task.recipe
    return {
        "made by": "teacher fit",
        "teacher": to_json(task.teacher),
        "data": to_json(recipe.data),
        "views": to_json(recipe.views),
        "view_size": list(recipe.view_size),
        "in_chans": recipe.student.in_chans,
        "epochs": options.epochs,
        "images": options.images,
        "heldout": options.heldout,
    }
