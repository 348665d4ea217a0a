"""From a recipe's script, and the options behind it on the command line, to what is to be measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from distill.bench.command import Bench, BenchOptions
from distill.recipe import Recipe
from distill.script import recipe_of


@dataclass(frozen=True)
class _Command:
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    options: Annotated[BenchOptions, tyro.conf.arg(name="")]


def with_recipe(script: Path, args: Sequence[str]) -> Callable[[], object]:
    """The command for a script, with the options of its recipe and of measuring. An unknown option ends the program."""
    command = tyro.cli(
        _Command,
        prog=f"python -m distill bench {script}",
        description=Bench.__doc__,
        args=args,
        default=_Command(recipe_of(script), BenchOptions()),
        config=(tyro.conf.AvoidSubcommands,),
    )
    # Heavy imports wait until the options are known to be right.
    from distill.bench.carry_out import bench

    return partial(bench, command.recipe, command.options, script)
