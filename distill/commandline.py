"""A recipe and a command's own options, from one command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import make_dataclass
from typing import Annotated, Any, TypeVar

import tyro

from distill.recipe import Recipe

Options = TypeVar("Options")


def parse(
    recipe: Recipe, options: Options, args: Sequence[str] | None, *, prog: str, description: str | None
) -> tuple[Recipe, Options]:
    """The recipe and the options after overrides such as --optim.epochs 100. An unknown option ends the program.

    options: the defaults, a dataclass. args: None for those of the program.
    """
    unnamed = tyro.conf.arg(name="")
    kinds: list[Any] = [("recipe", Annotated[Recipe, unnamed]), ("options", Annotated[type(options), unnamed])]
    both: Any = make_dataclass("Command", kinds, frozen=True)
    command = tyro.cli(
        both,
        prog=prog,
        description=description,
        args=args,
        default=both(recipe, options),
        console_outputs=os.environ.get("RANK", "0") == "0",
        config=(tyro.conf.AvoidSubcommands,),
    )
    return command.recipe, command.options
