"""`python -m distill`: what is done with runs after they ran."""

from __future__ import annotations

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
        console.show(table(rows))
        for line in closing_lines(rows):
            console.say(line)


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
