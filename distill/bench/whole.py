"""The loader alone, and the whole loop: the run's own code, timed once it has come up to speed."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console as Rich

from distill import preflight
from distill.console import Console
from distill.loader import Layout, train_batches
from distill.options import RunOptions
from distill.preflight import Plan
from distill.train import train
from distill.views import train_transform

if TYPE_CHECKING:
    from collections.abc import Callable

    from accelerate import Accelerator

    from teachers.frozen_ensemble import AnyFrozen

PREFETCHED = 2  # batches that torch's loader has each of its processes prepare ahead
FEWEST = 4
"""Steps of a turn of the loop at least, before the clock is started and on it."""


def loading(plan: Plan, workers: int) -> Callable[[int], float]:
    """Seconds in which so many batches are loaded, when the ones prepared ahead are used up."""
    recipe, student = plan.recipe, plan.recipe.student
    transform = train_transform(recipe.views, recipe.view_size, student.in_chans, student.input_mean, student.input_std)

    def take(count: int) -> float:
        layout = _long_enough(plan.layout, 1 + PREFETCHED * workers + count)
        batches = train_batches(
            plan.train, transform, layout, seed=recipe.seed, process=0, start_step=0, workers=workers
        )
        for _ in range(1 + PREFETCHED * workers):
            next(batches)
        began = time.perf_counter()
        for _ in range(count):
            next(batches)
        return time.perf_counter() - began

    return take


def looping(
    plan: Plan, teacher: AnyFrozen | None, accelerator: Accelerator, options: RunOptions, workers: int
) -> Callable[[int], float]:
    """Seconds in which the run's own loop takes so many steps, after as many that do not count."""

    def take(count: int) -> float:
        every, steps = logged(count, options.log_every_steps)
        fresh = preflight.check(plan.recipe)
        fresh = replace(fresh, layout=_long_enough(fresh.layout, 2 * steps))
        with tempfile.TemporaryDirectory() as aside:
            train(
                fresh,
                teacher,
                accelerator,
                Path(aside),
                replace(options, log_every_steps=every),
                _unseen(),
                workers=workers,
                stop_step=2 * steps,
            )
            ends = _ends(Path(aside) / "metrics.jsonl")
        accelerator.free_memory()
        return (ends[2 * steps] - ends[steps]) * count / steps

    return take


def logged(count: int, every: int) -> tuple[int, int]:
    """How often to log, about as often as asked for, and the fewest steps from `count` on that end with a line."""
    lines = -(-count // every)
    often = -(-count // lines)
    return often, lines * often


def _long_enough(layout: Layout, steps: int) -> Layout:
    """Of a run that is not at its end after so many steps, and has loaders prepare batches behind them."""
    return replace(layout, epochs=-(-steps // layout.steps_per_epoch) + 1)


def _unseen() -> Console:
    """Draws the progress of a run as on a terminal, for nobody."""
    console = Console()
    console.rich = Rich(file=StringIO(), force_terminal=True, width=120)
    return console


def _ends(metrics: Path) -> dict[int, float]:
    """Seconds at which each step that was logged ended."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return {line["step"]: line["seconds"] for line in lines}
