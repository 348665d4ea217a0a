"""`python -m distill`: what is done before and after runs: teachers, losses, comparisons."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

PROGRAM = "python -m distill"


@dataclass(frozen=True, kw_only=True)
class Losses:
    """List the losses that a recipe can name, or show one in full: its options, formula and paper."""

    name: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[LOSS]")] = None
    """A loss, such as OFA; None: a table of them all."""

    def __call__(self) -> None:
        from distill import catalogue
        from distill.console import Console

        console = Console()
        console.show(catalogue.page(self.name) if self.name else catalogue.table(console.rich.width))


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the recipes of a folder: teacher, student, data, losses, epochs and what was measured."""

    folder: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[FOLDER]")] = None
    """Where they are; None: recipes in this folder, or in the checkout of this package. The scripts are imported."""
    markdown: bool = False
    """Print the table of recipes/README.md instead."""

    def __call__(self) -> None:
        from distill import shelf
        from distill.console import Console

        console = Console()
        recipes, broken = shelf.shelved(shelf.folder(self.folder))
        if self.markdown:
            console.say("\n".join(shelf.markdown(recipes)))
        else:
            console.show(shelf.page(recipes, broken, console.rich.width))


@dataclass(frozen=True, kw_only=True)
class TeacherOfYourClasses:
    """Make a teacher of your classes: fit a head on its frozen features, or fine-tune all of it.

    The teacher, the data and the views are those of a recipe, and every option of them can follow it:

    python -m distill teacher fit recipes/folder.py --data.root PATH --teacher.name NAME --out DIR

    python -m distill teacher fine-tune recipes/folder.py --help
    """

    kind: tyro.conf.Positional[Literal["fit", "fine-tune"]]
    """"fit": minutes; "fine-tune": better where your images are unlike the teacher's."""
    recipe: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RECIPE")]
    """A recipe's script. Its options come after it."""

    def __call__(self, options: Sequence[str]) -> None:
        from distill.fitting.command import carry_out

        carry_out(self.kind, self.recipe, options)


def main() -> None:
    """Parse the command line and do what it says; an error ends it in one line, as it does a run."""
    from distill import failures, waiting

    waiting.rest()
    arguments = sys.argv[1:]
    place = " ".join([PROGRAM, *arguments[:1]])
    with failures.in_one_line(place, failures.STAYS), failures.until_unheard():
        _carry_out(arguments)


def _carry_out(arguments: list[str]) -> None:
    from distill.bench.command import Bench
    from distill.compare.command import Compare
    from distill.export.command import Export
    from distill.predict import Predict
    from distill.saved.command import Save

    commands = {
        "bench": Bench,
        "compare": Compare,
        "export": Export,
        "losses": Losses,
        "predict": Predict,
        "recipes": Recipes,
        "save": Save,
        "teacher": TeacherOfYourClasses,
    }
    name, words = (arguments or [""])[0], arguments[1:]
    if name not in commands:  # --help, or an error that names them
        tyro.extras.subcommand_cli_from_dict(commands, prog=PROGRAM, description=__doc__, args=arguments)
        return
    # Which options a recipe has is known only to its script, so what stands behind the script is parsed by it.
    if name in ("bench", "save") and words and not words[0].startswith("-"):
        commands[name].with_recipe(Path(words[0]), words[1:])
        return
    of_recipe = words[2:] if name == "teacher" else []
    own, speaks = words[: len(words) - len(of_recipe)], os.environ.get("RANK", "0") == "0"
    command = tyro.cli(commands[name], prog=f"{PROGRAM} {name}", args=own, console_outputs=speaks)
    command(of_recipe) if isinstance(command, TeacherOfYourClasses) else command()


if __name__ == "__main__":
    main()
