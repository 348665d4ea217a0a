"""`metrics.jsonl`: one object a line, losses and scores by step, for people, plots and trackers."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from distill import disk
from distill.evaluate import Score

if TYPE_CHECKING:
    from accelerate import Accelerator


class Metrics:
    """`metrics.jsonl`, one object a line, and accelerate's trackers. Lines past the resumed step are written anew."""

    def __init__(self, path: Path, start: int, accelerator: Accelerator) -> None:
        self.path, self.accelerator = path, accelerator
        self.started = time.perf_counter()
        self._scores: set[float] = set()
        if accelerator.is_main_process:
            lines = path.read_text().splitlines() if path.exists() else []
            kept = [line for line in lines if _step(line) <= start]
            disk.replace_text(path, "".join(line + "\n" for line in kept))
            self._scores = {_step(line) for line in kept if '"val/' in line}

    def write(self, values: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            line = json.dumps(values | {"seconds": round(time.perf_counter() - self.started, 3)})
            with self.path.open("a") as file:
                file.write(line + "\n")
        self.accelerator.log({k: v for k, v in values.items() if k != "step"}, step=int(values["step"]))

    def scored(self, step: int) -> bool:
        """Whether the file, as it was found, has a score of this step. Known to the main process only."""
        return step in self._scores

    def flush(self) -> None:
        """Wait until the lines are on the disk: a checkpoint must not survive the metrics of its steps."""
        if self.accelerator.is_main_process:
            disk.flush(self.path)


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf  # the last line of a process that was killed while it wrote


def of_losses(means: dict[str, float]) -> dict[str, float]:
    """The terms under the names of metrics.jsonl: loss, loss/labels, …"""
    return {"loss": means["total"]} | {f"loss/{name}": v for name, v in means.items() if name != "total"}


def of_score(result: Score) -> dict[str, float]:
    """A score under the names of metrics.jsonl."""
    values = {"val/top1": result.top1, "val/top5": result.top5, "val/nll": result.nll}
    values |= {"val/agreement": result.agreement, "val/kl": result.kl}
    return {name: value for name, value in values.items() if value is not None}
