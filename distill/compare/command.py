"""`python -m distill compare`: its options, and what they ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from distill.compare.options import OnnxInput

if TYPE_CHECKING:
    from distill.compare.candidate import Candidate


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Measure models on the same images, each on its own terms: accuracy, fidelity, calibration, robustness, cost.

    Prints tables and writes report.html, report.json and report.md into the first run folder, or into --out. The
    teachers of runs are measured too.
    """

    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL ...")]
    """Run folders, timm names, timm folders (a student's too) and ONNX files."""
    out: Path | None = None
    """Folder for the reports; None: the first run folder, or runs/compare where there is none."""
    data: Path | None = None
    """Images to compare on: a folder (with val/, of class folders, or of images alone) or an .npz file; None: the
    validation images of the first run."""
    data_from: Path | None = None
    """A recipe's script or a run folder whose validation images are taken instead."""
    images: int | None = None
    """At most so many of the images, evenly spaced; None: all."""
    against: str | None = None
    """The model that the others are compared with, by its name or as it was named; None: the runs' teacher, else the
    first model."""
    cost: bool = True
    """Time every model on this machine, batch 1 and batch 64."""
    corruptions: bool = False
    """Measure accuracy under six corruptions at five strengths as well, which takes 30 passes."""
    corruption_images: int = 1000
    """At most so many images for them, evenly spaced."""
    cka_images: int = 1024
    """At most so many images for the comparison of layers, evenly spaced; 0: none."""
    threads: int | None = None
    """CPU threads of each process; None: the cores of the machine shared evenly."""
    onnx: OnnxInput = field(default_factory=OnnxInput)
    script: Path | None = None
    """The recipes' script, where it has losses or data sets of its own. It is imported, so its code runs."""

    def __call__(self) -> None:
        self.check()
        # Heavy imports wait until the options are known to be right.
        from distill.compare.carry_out import carry_out
        from distill.script import import_as_main

        if self.script is not None:
            import_as_main(self.script)
        carry_out(self)

    def check(self) -> None:
        """ValueError for an option out of its range."""
        for name, least in (("images", 1), ("threads", 1), ("corruption_images", 1), ("cka_images", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name.replace('_', '-')} is {value}; use {least} or more")


def chosen_reference(candidates: Sequence[Candidate], against: str | None) -> Any:
    """The candidate that the others are compared with; None where there is one only. ValueError if there is none."""
    if against is not None:
        for candidate in candidates:
            names = (candidate.key, candidate.asked, candidate.name, candidate.source, candidate.run)
            if against in names or str(Path(against)) in names:  # a folder's name may end in /
                return candidate
        known = ", ".join(repr(candidate.key) for candidate in candidates)
        raise ValueError(f"--against {against} is none of the models compared; use one of {known}")
    if len(candidates) < 2:
        return None
    return next((candidate for candidate in candidates if candidate.role == "teacher"), candidates[0])
