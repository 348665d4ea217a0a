"""Which classes a model takes for which, against the reference's decisions."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor

MOST = 40


class Pairs:
    """Counts of (reference's decision, model's decision); only pairs that occurred take memory."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[int, int]] = Counter()

    def add(self, reference: Tensor, own: Tensor) -> None:
        """Decisions [B] and [B]."""
        self.counts.update(zip(reference.tolist(), own.tolist(), strict=True))


def confusion(counts: Counter[tuple[int, int]], classes: int) -> dict[str, Any]:
    """{"classes": indices, "counts": [reference's decision][model's decision]} of the MOST most confused classes.

    A class is the more confused the more images only one of the two puts into it; the classes are in their own order.
    """
    confused: Counter[int] = Counter()
    for (theirs, ours), count in counts.items():
        if theirs != ours:
            confused.update({theirs: count, ours: count})
    ranked = sorted(range(classes), key=lambda index: (-confused[index], index))
    chosen = sorted(ranked[:MOST])
    return {"classes": chosen, "counts": [[counts[(row, column)] for column in chosen] for row in chosen]}
