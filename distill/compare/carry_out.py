"""One comparison, from what was named to the reports."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.compare.command import Compare, chosen_reference
from distill.compare.measure import AT_THE_END_OF_A_RUN, Comparison, Extent

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.compare.candidate import Candidate
    from distill.compare.validation import Validation
    from distill.console import Console

MANY = 1000
"""Images from which on it pays to make a runtime for a timm model on the CPU."""


def carry_out(options: Compare) -> None:
    """Load, measure, print and write. ValueError for what a user can mend."""
    import torch
    from accelerate import Accelerator

    from distill import preflight
    from distill.compare import named, validation
    from distill.compare.classes import agree
    from distill.console import Console
    from distill.loader import cores
    from distill.processes import from_main

    accelerator = Accelerator()
    if accelerator.device.type == "cpu":
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(options.threads or max(cores() // here, 1))
    console = Console(main=accelerator.is_main_process)
    what = from_main(accelerator, lambda: named.read(options.models))
    out = options.out or next(iter(what.runs), Path("runs/compare"))
    from_main(accelerator, lambda: preflight.check_folder(out))
    images = validation.find(what, options.data, options.data_from)
    fast = accelerator.device.type == "cpu" and min(len(images.images), options.images or MANY) >= MANY
    candidates = named.load(what, accelerator, console, onnx=options.onnx, fast=fast)
    reference = chosen_reference(candidates, options.against)
    comparison = Comparison(
        agree(images.classes, candidates),
        images,
        accelerator,
        console,
        reference=reference,
        alone=what.alone,
        scratch=out,
    )
    extent = Extent(
        images=options.images,
        cka_images=options.cka_images,
        corruption_images=options.corruption_images if options.corruptions else 0,
        cost=options.cost,
    )
    finish(comparison, comparison.measure(extent), out)
    console.say(f"report: {out / 'report.html'}")
    accelerator.end_training()


def at_the_end_of_a_run(
    candidates: Sequence[Candidate], images: Validation, out: Path, accelerator: Accelerator, console: Console
) -> dict[str, Any]:
    """The report of a run's own models, without what takes long; written and shown."""
    from distill.compare.candidate import keyed
    from distill.compare.classes import agree

    models = keyed(candidates)
    comparison = Comparison(
        agree(images.classes, models),
        images,
        accelerator,
        console,
        reference=chosen_reference(models, None),
        scratch=out,
    )
    report = comparison.measure(AT_THE_END_OF_A_RUN)
    finish(comparison, report, out)
    return report


def finish(comparison: Comparison, report: dict[str, Any], out: Path) -> None:
    """Show the report, and write report.html, report.md and, last because it marks a run as finished, report.json."""
    from distill import folder
    from distill.compare.cells import caveat
    from distill.compare.markdown import markdown
    from distill.compare.page import write_compared
    from distill.compare.report import closing_lines, left_out, tables

    if comparison.accelerator.is_main_process:
        write_compared(comparison, report, out)
        folder.write(out / "report.md", markdown(report))
        folder.write(out / "report.json", report)
    console = comparison.console
    for table in tables(report, console.rich.width):
        console.table(table, foldable="model")
    if missing := left_out(report, console.rich.width):
        console.say(f"no room in this window for {', '.join(missing)}: see {out / 'report.md'}")
    for line in closing_lines(report):
        console.say(line)
    if note := caveat(report):
        console.say(note)
