"""bad_images.txt: the images of a run that could not be read and were passed over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from distill import folder
from distill.loader import bad_images

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.preflight import Plan

FILE = "bad_images.txt"


def list_bad(plan: Plan, accelerator: Accelerator, out: Path) -> int:
    """Write what all processes have come across so far into the run folder, and return how many images that are.

    A line an image, with its reason; those of before a resume stay. Every process calls this, or none.
    """
    from accelerate.utils import gather_object

    if getattr(plan.recipe.data, "on_bad", "error") != "skip":
        return 0
    sets = [bad for bad in (bad_images(plan.train), bad_images(plan.val)) if bad]
    lines = set(gather_object([line for bad in sets for line in bad.lines]))
    file = out / FILE
    if accelerator.is_main_process and lines:
        before = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
        lines |= set(before)
        folder.write(file, "".join(f"{line}\n" for line in sorted(lines)))
    return len(lines)
