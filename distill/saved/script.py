"""From a recipe's script, and the options behind it on the command line, to what is to be saved."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from distill.recipe import Recipe
from distill.saved.command import Save, SaveOptions
from distill.script import recipe_of


@dataclass(frozen=True)
class _Command:
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    options: Annotated[SaveOptions, tyro.conf.arg(name="")]


def with_recipe(script: Path, args: Sequence[str]) -> Callable[[], None]:
    """The command for a script, with the options of its recipe and of saving. An unknown option ends the program."""
    recipe = recipe_of(script)
    command = tyro.cli(
        _Command,
        prog=f"python -m distill save {script}",
        description=Save.__doc__,
        args=args,
        default=_Command(recipe, SaveOptions()),
        console_outputs=os.environ.get("RANK", "0") == "0",
        config=(tyro.conf.AvoidSubcommands,),
    )
    # Heavy imports wait until the options are known to be right.
    from distill.saved.saving import save

    return partial(save, command.recipe, command.options, script.stem)
