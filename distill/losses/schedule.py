"""How a loss's weight changes over a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What a loss's weight is multiplied with, by how much of the run is done.

    constant: 1. warmup: from 0 to 1 in a straight line, then 1. decay: from 1 to 0 in a straight line, then 0.
    """

    name: Literal["constant", "warmup", "decay"] = "constant"
    """Which of the three."""
    over: float = 1.0
    """Share of the run, from its start, in which a warm-up or a decay happens."""

    def factor(self, progress: float) -> float:
        """The factor when a share `progress` of the run, 0 to 1, is done."""
        if self.name == "constant":
            return 1.0
        risen = min(progress / self.over, 1.0)
        return risen if self.name == "warmup" else 1.0 - risen


CONSTANT = Schedule()
