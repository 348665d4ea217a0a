"""Checkpoints: written aside and renamed, so that a folder named step_… is whole; the newest two are kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator

KEPT = 2


def save(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Write all that a run needs to go on after `step` steps: weights, optimiser, moving average, scaler."""
    final = folder / f"step_{step:09d}"
    aside = folder / f"{final.name}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(aside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        for old in _whole(folder)[:-KEPT]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def latest_step(folder: Path) -> int:
    """The step of the newest checkpoint; 0 if there is none."""
    whole = _whole(folder)
    return int(whole[-1].name.removeprefix("step_")) if whole else 0


def load(accelerator: Accelerator, folder: Path) -> int:
    """Restore the newest checkpoint and return its step; 0 if there is none."""
    step = latest_step(folder)
    if step:
        accelerator.load_state(str(folder / f"step_{step:09d}"))
    return step


def _whole(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step_*") if path.suffix != ".partial")
