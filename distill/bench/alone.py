"""The command line of a measurement of its own, whose recipe may have options of its own behind it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from distill.failures import STAYS, in_one_line


def start(command: Callable[..., Callable[[], None]], prog: str) -> None:
    """Parse the program's arguments and measure; an error ends it in one line, as it does a run."""
    with in_one_line(prog, STAYS):
        tyro.cli(command, prog=prog)()


def start_with_recipe(command: Callable[..., Callable[[Sequence[str]], None]], prog: str) -> None:
    """The same for a dataclass of what stands up to the recipe's script, called with what stands behind it."""
    arguments = sys.argv[1:]
    script = next((at for at, word in enumerate(arguments) if word.endswith(".py")), None)
    with in_one_line(prog, STAYS):
        if script is None and not {"-h", "--help"} & set(arguments):
            raise ValueError(f"no recipe is named; name a script, as in {prog} recipes/quickstart.py")
        measure: Any = tyro.cli(command, prog=prog, args=arguments if script is None else arguments[: script + 1])
        measure(arguments[script + 1 :] if script is not None else ())
