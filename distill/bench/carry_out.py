"""One bench, from a recipe to its table."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

from distill import preflight
from distill.bench.command import BenchOptions
from distill.bench.page import Page
from distill.bench.profiled import profiled
from distill.bench.stages import Stages
from distill.bench.turns import in_turns
from distill.console import Console
from distill.loader import cores
from distill.recipe import Recipe
from distill.standin import missing, stand_in, without_download
from teachers.runtime import borrowed_cache

MOST_THREADS = 1024


def bench(recipe: Recipe, options: BenchOptions, script: Path) -> Page:
    """Measure a recipe's stages and print their table. ValueError for a user's errors."""
    check(options)
    accelerator = Accelerator()
    if accelerator.num_processes > 1:
        raise ValueError("bench measures one process; start it with python -m distill bench, without a launcher")
    if accelerator.device.type == "cpu":
        torch.set_num_threads(options.threads or cores())
    console = Console()
    if reason := missing(recipe.data):
        recipe, done = stand_in(recipe)
        console.say(f"bench: {reason}. Until then {done}")
    else:
        recipe = replace(recipe, data=without_download(recipe.data))
    with tempfile.TemporaryDirectory() as aside, borrowed_cache(Path(aside)):
        plan = preflight.check(recipe)
        made = Stages(plan, options, accelerator, console, Path(aside))
        stages = made.all()
        if not stages:
            raise ValueError(f"there is nothing to measure by --only {' '.join(options.only)}: {'; '.join(made.notes)}")
        if options.profile:
            profiled(made.online, options.profile, console)
        with console.rich.status("measuring") as status:
            measured = in_turns(
                stages,
                rounds=options.rounds,
                seconds=options.seconds,
                device=accelerator.device,
                said=status.update if console.rich.is_terminal else _in_lines(console),
            )
    notes = list(dict.fromkeys(made.notes))
    page = Page(
        script=script,
        plan=plan,
        options=options,
        stages=measured,
        notes=notes,
        accelerator=accelerator,
    )
    console.show(page.table(console.rich.width))
    for line in page.lines():
        console.say(line)
    if options.json:
        options.json.write_text(json.dumps(page.as_json(), indent=1) + "\n", encoding="utf-8")
        console.say(f"figures: {options.json}")
    return page


def _in_lines(console: Console) -> Callable[[str], None]:
    """Says in a file what a terminal shows in one line: each round once."""
    said: set[str] = set()

    def say(text: str) -> None:
        part = text.partition(":")[0]
        if part not in said:
            said.add(part)
            console.say(part)

    return say


def check(options: BenchOptions) -> None:
    """ValueError for an option out of its range."""
    for name in ("rounds", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"--{name} is {value}; use 1 or more")
    if options.workers is not None and options.workers < 0:
        raise ValueError(f"--workers is {options.workers}; use 0 or more")
    if (options.threads or 1) > MOST_THREADS:
        raise ValueError(f"--threads is {options.threads}; use {MOST_THREADS} or fewer")
    for name in ("seconds", "peak_tflops"):
        if (value := getattr(options, name)) is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; use a number above 0")
    if "peers" in options.only and not options.against:
        raise ValueError("--only names peers and --against nobody; add --against timm, torchdistill or loop")
    if options.only and options.against and "peers" not in options.only:
        raise ValueError(f"--against {' '.join(options.against)} is measured as peers, which --only leaves out; add it")
    for name in ("json", "profile"):
        if (file := getattr(options, name)) is not None:
            _check_file(file, f"--{name}")


def _check_file(file: Path, option: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
        if file.is_dir():
            raise IsADirectoryError(None, "it is a folder")
    except OSError as error:
        raise ValueError(f"{file} cannot be written ({error.strerror}); name another file with {option}") from None
