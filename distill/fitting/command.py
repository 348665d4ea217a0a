"""`python -m distill teacher fit | fine-tune RECIPE`: a recipe's teacher, data and views, and the command's options."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from distill import early
from distill.fitting import options as fitting_options
from distill.fitting.options import FineTune, Fit
from distill.recipe import Recipe
from distill.script import recipe_of
from distill.views import Views
from teachers.teacher import Teacher

if TYPE_CHECKING:
    from distill.data import Data
else:
    Data = Any


@dataclass(frozen=True, kw_only=True)
class _Fit:
    options: Annotated[Fit, tyro.conf.arg(name="")]
    teacher: Teacher
    data: Data
    views: Views


@dataclass(frozen=True, kw_only=True)
class _FineTune:
    options: Annotated[FineTune, tyro.conf.arg(name="")]
    teacher: Teacher
    data: Data
    views: Views
    seed: int


def parse(kind: str, script: Path, arguments: Sequence[str]) -> tuple[Recipe, Fit | FineTune]:
    """A script's recipe with overrides such as --teacher.name, and the options. An unknown option ends the program."""
    recipe = recipe_of(script)
    if recipe.teacher is None:
        raise ValueError(f"the recipe in {script} has no teacher; give it one with teacher=Teacher(name=...)")
    shared: dict[str, Any] = {"teacher": recipe.teacher, "data": recipe.data, "views": recipe.views}
    if kind == "fit":
        command, default = _Fit, _Fit(options=Fit(), **shared)
    else:
        command, default = _FineTune, _FineTune(options=FineTune(), seed=recipe.seed, **shared)
    chosen: Any = tyro.cli(
        command,
        prog=f"python -m distill teacher {kind} {script}",
        description=type(default.options).__doc__,
        args=arguments,
        default=default,
        console_outputs=os.environ.get("RANK", "0") == "0",
        config=(tyro.conf.AvoidSubcommands,),
    )
    _check_typed(kind, recipe.teacher, chosen.teacher)
    changed = {"teacher": chosen.teacher, "data": chosen.data, "views": chosen.views}
    if kind != "fit":
        changed["seed"] = chosen.seed
    return replace(recipe, **changed), chosen.options


def _check_typed(kind: str, of_recipe: Any, typed: Any) -> None:
    """ValueError for an option of the teacher that was typed and says how a run, not this command, gets its classes."""
    for name in ("class_map", "calibrate", *(("fit_images",) if kind == "fit" else ())):
        if getattr(of_recipe, name, None) != getattr(typed, name, None):
            option = f"--teacher.{name.replace('_', '-')}"
            instead = "use --images" if name == "fit_images" else "leave it out"
            raise ValueError(f"{option} is for a run; teacher {kind} fits and calibrates a head by itself: {instead}")


def carry_out(kind: str, script: Path, arguments: Sequence[str]) -> None:
    """Parse, then fit or fine-tune."""
    recipe, options = parse(kind, script, arguments)
    fitting_options.check(options)
    early.check_recipe(recipe)
    # Heavy imports wait until what can be known without them is known to be right.
    import torch
    from accelerate import Accelerator

    from distill.console import Console
    from distill.fitting.finetune import fine_tune
    from distill.fitting.fit import fit
    from distill.loader import cores, default_workers
    from distill.train import NonFiniteLoss

    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    accelerator = Accelerator()
    if accelerator.device.type == "cpu":
        torch.set_num_threads(options.threads or max(cores() // here, 1))
    console = Console(main=accelerator.is_main_process)
    out = Path(options.out or f"runs/{script.stem}-teacher")
    workers = default_workers(here) if options.workers is None else options.workers
    line = shlex.join(["python", "-m", "distill", "teacher", kind, str(script), *arguments])
    where: Any = {"command": line, "workers": workers}
    try:
        if isinstance(options, Fit):
            fit(recipe, options, out, accelerator, console, **where)
        else:
            fine_tune(recipe, options, out, accelerator, console, **where)
    except NonFiniteLoss as error:
        raise ValueError(str(error)) from error
    finally:
        accelerator.end_training()
