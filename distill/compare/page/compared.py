"""The page of a comparison: its report, and pictures made with its models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.compare.page.html import write
from distill.compare.page.pictures import Eye, draw

if TYPE_CHECKING:
    from distill.compare.candidate import Candidate
    from distill.compare.measure import Comparison


def write_compared(comparison: Comparison, report: dict[str, Any], out: Path) -> None:
    """Write report.html into the folder. One process does it, without the others."""
    device = comparison.accelerator.device
    eyes = {c.key: eye for c in comparison.candidates if (eye := _eye(c, device)) is not None}
    write(out, report, draw(report, comparison.validation.images, eyes))


def _eye(candidate: Candidate, device: Any) -> Eye | None:
    if candidate.module is None:
        return None
    return Eye(
        module=candidate.module,
        preprocess=lambda image: candidate.prepare(candidate.preprocess(image).unsqueeze(0).to(device)),
        forward=candidate.forward,
        logit=candidate.among,
    )
