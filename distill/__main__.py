"""`python -m distill`: what is done before and after runs: teachers, losses, comparisons."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Measure the teacher and the students of run folders on the same images.

    Prints a table and writes report.json and report.md into the first run folder, or into --out.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, such as runs/quickstart runs/quickstart-alone."""
    out: Path | None = None
    """Folder for the reports; None: the first run folder."""
    script: Path | None = None
    """The recipes' script, where it has losses or data sets of its own. It is imported, so its code runs."""

    def __call__(self) -> None:
        if not self.runs:
            raise ValueError("no run folder was named; name one such as runs/quickstart")
        import torch
        from accelerate import Accelerator

        from distill import preflight
        from distill.compare.report import closing_lines, table
        from distill.compare.runs import compare_runs
        from distill.console import Console
        from distill.job import write_report
        from distill.loader import cores

        if self.script is not None:
            _import_as_main(self.script)
        accelerator = Accelerator()
        if accelerator.device.type == "cpu":
            torch.set_num_threads(cores())
        console = Console(main=accelerator.is_main_process)
        out = self.out or self.runs[0]
        if out != self.runs[0]:
            preflight.check_folder(out)
        rows = compare_runs(self.runs, accelerator, console)
        if accelerator.is_main_process:
            write_report(out, rows)
        console.show(table(rows, console.rich.width))
        for line in closing_lines(rows):
            console.say(line)


@dataclass(frozen=True, kw_only=True)
class Losses:
    """List the losses that a recipe can name, or show one in full: its options, formula and paper."""

    name: tyro.conf.Positional[str | None] = None
    """A loss, such as OFA; None: a table of them all."""

    def __call__(self) -> None:
        from distill import catalogue
        from distill.console import Console

        console = Console()
        console.show(catalogue.page(self.name) if self.name else catalogue.table(console.rich.width))


@dataclass(frozen=True, kw_only=True)
class TeacherOfYourClasses:
    """Make a teacher of your classes: fit a head on its frozen features, or fine-tune all of it.

    The teacher, the data and the views are those of a recipe, and every option of them can follow it:
    python -m distill teacher fit recipes/folder.py --data.root PATH --teacher.name NAME --out DIR
    python -m distill teacher fine-tune recipes/folder.py --help
    """

    kind: tyro.conf.Positional[Literal["fit", "fine-tune"]]
    """"fit": minutes; "fine-tune": better where your images are unlike the teacher's."""
    recipe: tyro.conf.Positional[Path]
    """A recipe's script. Its options come after it."""

    def __call__(self, options: Sequence[str]) -> None:
        from distill.fitting.command import carry_out

        carry_out(self.kind, self.recipe, options)


def _import_as_main(script: Path) -> None:
    # A class or function of a script that was run is known to recipe.json as one of __main__.
    sys.path.insert(0, str(script.resolve().parent))  # as for a script that is run, which may import its neighbours
    try:
        names = runpy.run_path(str(script), run_name="__recipe__")
    except OSError as error:
        raise ValueError(f"the script {script} cannot be read ({error.strerror}); name the recipe's file") from None
    for name, value in names.items():
        if isinstance(value, type) or (isinstance(value, FunctionType) and value.__module__ == "__recipe__"):
            setattr(sys.modules["__main__"], name, value)


def main() -> None:
    """Parse the command line and do what it says; a user's error is one line and exit code 2."""
    from distill.saved.command import Save

    commands = {"compare": Compare, "losses": Losses, "save": Save, "teacher": TeacherOfYourClasses}
    arguments = sys.argv[1:]
    try:
        # Which options a recipe has is known only to its script, so what stands behind the script is parsed by it.
        if arguments[:1] == ["save"] and len(arguments) > 1 and not arguments[1].startswith("-"):
            from distill.saved.script import with_recipe

            with_recipe(Path(arguments[1]), arguments[2:])()
            return
        of_recipe = arguments[3:] if arguments[:1] == ["teacher"] else []
        command = tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="python -m distill",
            description=__doc__,
            args=arguments[: len(arguments) - len(of_recipe)],
        )
        command(of_recipe) if isinstance(command, TeacherOfYourClasses) else command()
    except ValueError as error:
        from distill.failures import one_line

        if os.environ.get("RANK", "0") == "0":  # a launcher's other processes found the same
            print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
