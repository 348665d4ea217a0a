"""The images on which a model and the reference disagree most confidently."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

MOST = 12


class Disagreements:
    """The most confident disagreements so far: at most MOST of every class, of which one knows only those seen.

    Confidence is the product of both models' largest probabilities. An image's class is its label, or the reference's
    decision where it has none.
    """

    def __init__(self) -> None:
        self.of_class: dict[int, list[dict[str, Any]]] = {}

    def add(self, reference: Tensor, own: Tensor, labels: Tensor | None, index: Tensor) -> None:
        """Logits [B, K] of both, labels [B] or None, indices [B] in the set."""
        theirs, ours = reference.float().softmax(-1), own.float().softmax(-1)
        k = min(5, ours.shape[-1])
        their_top, our_top = theirs.topk(k), ours.topk(k)
        differ = (their_top.indices[:, 0] != our_top.indices[:, 0]).nonzero().squeeze(1).tolist()
        found = (_entry(row, their_top, our_top, labels, index) for row in differ)
        self.merge(found)

    def merge(self, entries: Iterable[dict[str, Any]]) -> None:
        """Take in entries, such as another process's."""
        for entry in entries:
            best = self.of_class.setdefault(_class_of(entry), [])
            best.append(entry)
            best.sort(key=_order)
            del best[MOST:]

    def entries(self) -> list[dict[str, Any]]:
        """All that are kept."""
        return [entry for best in self.of_class.values() for entry in best]

    def chosen(self) -> list[dict[str, Any]]:
        """At most MOST: the most confident of every class first, then their seconds, and so on."""
        ranked = [(place, *_order(entry), entry) for best in self.of_class.values() for place, entry in enumerate(best)]
        return [row[-1] for row in sorted(ranked, key=lambda row: row[:-1])[:MOST]]


def _entry(row: int, theirs: Any, ours: Any, labels: Tensor | None, index: Tensor) -> dict[str, Any]:
    def top(of: Any) -> list[list[float]]:
        return [[int(c), float(p)] for c, p in zip(of.indices[row].tolist(), of.values[row].tolist(), strict=True)]

    label = None if labels is None else int(labels[row])
    return {"index": int(index[row]), "label": label, "reference_top5": top(theirs), "top5": top(ours)}


def _class_of(entry: dict[str, Any]) -> int:
    return entry["reference_top5"][0][0] if entry["label"] is None else entry["label"]


def _order(entry: dict[str, Any]) -> tuple[float, int]:
    return -entry["reference_top5"][0][1] * entry["top5"][0][1], entry["index"]
