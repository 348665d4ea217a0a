"""The command line of a measurement of its own, whose recipe has options of its own behind it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro


def start(command: Callable[..., Callable[[Sequence[str]], None]], prog: str) -> None:
    """Parse the program's arguments and measure; a user's error is one line and exit code 2.

    command: a dataclass of what stands up to the recipe's script, called with what stands behind it.
    """
    arguments = sys.argv[1:]
    script = next((at for at, word in enumerate(arguments) if word.endswith(".py")), len(arguments))
    try:
        measure: Any = tyro.cli(command, prog=prog, args=arguments[: script + 1])
        measure(arguments[script + 1 :])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
