"""What was lost and won class by class against the reference, the most lost first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

EACH_END = 20
"""Of many classes this many are shown from either end."""


@dataclass(frozen=True, kw_only=True)
class Class:
    """A class: both accuracies, their difference, and how many images it has."""

    name: str
    images: int
    reference: float
    own: float

    @property
    def difference(self) -> float:
        return self.own - self.reference


@dataclass(frozen=True, kw_only=True)
class Classes:
    """A model's classes from the most lost to the most won; `left_out` of them between `worst` and `best`.

    lost, won: how far the bars of all models reach either way, at least 0.01 together.
    """

    number: int
    worst: list[Class]
    best: list[Class]
    left_out: int
    lost: float
    won: float


def per_class(report: Mapping[str, Any]) -> list[Classes]:
    """For every model but the reference; empty where classes were not counted."""
    names, models = report["data"]["classes"], report["models"]
    reference = next((model for model in models if model["key"] == report.get("reference")), None)
    if reference is None or not reference.get("per_class"):
        return []
    found = []
    for number, model in enumerate(models):
        if model is reference or not model.get("per_class"):
            continue
        rows = [
            Class(
                name=names[at] if at < len(names) else f"class {at}",
                images=own["images"],
                reference=its["correct"] / its["images"],
                own=own["correct"] / own["images"],
            )
            for at, (own, its) in enumerate(zip(model["per_class"], reference["per_class"], strict=True))
            if own["images"] and its["images"]
        ]
        if rows:
            found.append(_cut(number, sorted(rows, key=lambda row: (row.difference, row.name))))
    # One scale for all, so that a bar of one model can be held against a bar of another.
    lost, won = (max((getattr(each, way) for each in found), default=0) for way in ("lost", "won"))
    return [replace(each, lost=lost, won=won) for each in found]


def _cut(number: int, rows: list[Class]) -> Classes:
    lost, won = max(-rows[0].difference, 0.005), max(rows[-1].difference, 0.005)
    cut = len(rows) > 2 * EACH_END + 4
    worst, best = (rows[:EACH_END], rows[-EACH_END:]) if cut else (rows, [])
    left_out = len(rows) - len(worst) - len(best)
    return Classes(number=number, worst=worst, best=best, left_out=left_out, lost=lost, won=won)
