"""The training curves of a run, from its metrics.jsonl."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

MOST = 400
"""Points of a series that are kept, evenly spaced, the first and the last among them."""


def curves(folder: Path, role: str) -> dict[str, Any] | None:
    """{"role", "val": [[epoch, top-1]], "losses": {term: [[step, value]]}} of a run; None where it has no metrics."""
    file = folder / "metrics.jsonl"
    if not file.is_file():
        return None
    val: list[list[float]] = []
    losses: dict[str, list[list[float]]] = {}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            values = _values(line)
            if "val/top1" in values:
                val.append([values["epoch"], values["val/top1"]])
            for name, value in values.items():
                if (name == "loss" or name.startswith("loss/")) and math.isfinite(value):
                    losses.setdefault(name.removeprefix("loss/"), []).append([values["step"], value])
    return {"role": role, "val": thinned(val), "losses": {name: thinned(points) for name, points in losses.items()}}


def thinned(points: list[list[float]]) -> list[list[float]]:
    """At most MOST of the points."""
    if len(points) <= MOST:
        return points
    return [points[round(at * (len(points) - 1) / (MOST - 1))] for at in range(MOST)]


def _values(line: str) -> dict[str, float]:
    try:
        return json.loads(line)
    except ValueError:
        return {}  # the last line of a process that was killed while it wrote
