"""`python -m distill`: what is done with runs after they ran."""

from __future__ import annotations

import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

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


def _import_as_main(script: Path) -> None:
    # A class of a script that was run is known to recipe.json as one of __main__.
    try:
        names = runpy.run_path(str(script), run_name="__recipe__")
    except OSError as error:
        raise ValueError(f"the script {script} cannot be read ({error.strerror}); name the recipe's file") from None
    for name, value in names.items():
        if isinstance(value, type):
            setattr(sys.modules["__main__"], name, value)


def main() -> None:
    """Parse the command line and do what it says; a user's error is one line and exit code 2."""
    command = tyro.extras.subcommand_cli_from_dict({"compare": Compare}, prog="python -m distill", description=__doc__)
    try:
        command()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
