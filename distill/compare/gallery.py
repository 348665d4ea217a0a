"""The images on which a model and the reference disagree most confidently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor

MOST = 12


class Disagreements:
    """The MOST chosen disagreements so far: the most confident of every class first, then their seconds, and so on.

    Confidence is the product of both models' largest probabilities. An image's class is its label, or the reference's
    decision where it has none. No more is kept than is chosen, because one that is passed over now never comes back:
    what comes later only pushes others down.
    """

    def __init__(self) -> None:
        self.chosen: list[dict[str, Any]] = []

    def add(self, reference: Tensor, own: Tensor, labels: Tensor | None, index: Tensor) -> None:
        """Logits [B, K] of both, labels [B] or None, indices [B] in the set."""
        theirs, ours = reference.float().softmax(-1), own.float().softmax(-1)
        k = min(5, ours.shape[-1])
        their_top, our_top = theirs.topk(k), ours.topk(k)
        differ = (their_top.indices[:, 0] != our_top.indices[:, 0]).nonzero().squeeze(1).tolist()
        self.merge(_entry(row, their_top, our_top, labels, index) for row in differ)

    def merge(self, entries: Iterable[dict[str, Any]]) -> None:
        """Take in entries, such as another process's."""
        places: Counter[int] = Counter()
        ranked = []
        for entry in sorted([*self.chosen, *entries], key=_order):
            ranked.append((places[_class_of(entry)], *_order(entry), entry))
            places[_class_of(entry)] += 1
        self.chosen = [row[-1] for row in sorted(ranked, key=lambda row: row[:-1])[:MOST]]


def _entry(row: int, theirs: Any, ours: Any, labels: Tensor | None, index: Tensor) -> dict[str, Any]:
    def top(of: Any) -> list[list[float]]:
        return [[int(c), float(p)] for c, p in zip(of.indices[row].tolist(), of.values[row].tolist(), strict=True)]

    label = None if labels is None else int(labels[row])
    return {"index": int(index[row]), "label": label, "reference_top5": top(theirs), "top5": top(ours)}


def _class_of(entry: dict[str, Any]) -> int:
    return entry["reference_top5"][0][0] if entry["label"] is None else entry["label"]


def _order(entry: dict[str, Any]) -> tuple[float, int]:
    return -entry["reference_top5"][0][1] * entry["top5"][0][1], entry["index"]
