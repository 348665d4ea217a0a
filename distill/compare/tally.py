"""What is counted of one model while the images pass: sums, and small things of bounded number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.compare.calibrate import KeptLogits, caveat, measures, probabilistic, scaled
from distill.compare.confusion import Pairs, confusion
from distill.compare.gallery import Disagreements
from distill.compare.ranks import rank_correlation
from distill.compare.significance import mcnemar
from distill.evaluate import SUMS, Score, count, interval, scored
from teachers.calibration import BINS

Reduce = Callable[[Tensor], Tensor]
Gather = Callable[[Any], list[Any]]


class Tally:
    """A model on K classes, compared with the reference or not; its memory does not grow with the images.

    folder: where logits wait, in a file without a name, for the temperature that is fitted at the end.
    """

    def __init__(self, classes: int, *, compared: bool, folder: Path | None) -> None:
        self.classes, self.compared = classes, compared
        self.sums = torch.zeros(SUMS, dtype=torch.float64)
        self.probabilistic = torch.zeros(2 + 3 * BINS, dtype=torch.float64)
        self.per_class = torch.zeros(classes, 2, dtype=torch.float64)  # images, right
        self.against = torch.zeros(
            3, dtype=torch.float64
        )  # only the reference right, only this right, rank correlation
        self.pairs, self.gallery, self.kept = Pairs(), Disagreements(), KeptLogits(folder)

    def add(self, own: Tensor, labels: Tensor | None, index: Tensor, reference: Tensor | None) -> None:
        """Logits [B, K], labels [B] or None, the indices [B] of the images, and the reference's logits [B, K]."""
        self.sums += count(own, labels, reference).cpu()
        decided = own.argmax(-1)
        if labels is not None:
            self.probabilistic += probabilistic(own, labels)
            right = torch.stack([torch.ones_like(labels), decided == labels], -1).double().cpu()
            self.per_class.index_add_(0, labels.cpu(), right)
            self.kept.add(own, labels, index)
        if reference is not None:
            self.against[2] += rank_correlation(own, reference).sum().cpu()
            theirs = reference.argmax(-1)
            if labels is not None:
                ours, other = decided == labels, theirs == labels
                self.against[:2] += torch.stack([(other & ~ours).sum(), (ours & ~other).sum()]).cpu()
            self.pairs.add(theirs, decided)
            self.gallery.add(reference, own, labels, index)

    def result(self, total: int, reduce: Reduce, gather: Gather) -> dict[str, Any]:
        """The model's part of the report, of all processes together; `total` images must have been counted."""
        score = scored(reduce(self.sums).tolist(), self.compared, self.classes, total)
        per_class = reduce(self.per_class)
        calibration = None
        before = reduce(self.probabilistic)
        if score.labelled:
            after = scaled(self.kept, reduce) or {"temperature": None, "after": None}
            note = caveat(score.labelled) if after["after"] else None
            calibration = {"before": measures(before), **after, "note": note}
        self.kept.close()
        return {
            "images": score.images,
            "top1": score.top1,
            "top1_interval": _bounds(score.top1, score.labelled),
            "top5": score.top5,
            "top5_interval": _bounds(score.top5, score.labelled),
            "nll": calibration["before"]["nll"] if calibration else None,
            "agreement": score.agreement,
            "kl": score.kl,
            "per_class": [_of_class(int(n), int(right)) for n, right in per_class.tolist()],
            "calibration": calibration,
            **self._against_reference(score, reduce(self.against), gather),
        }

    def _against_reference(self, score: Score, against: Tensor, gather: Gather) -> dict[str, Any]:
        pairs, galleries = gather(self.pairs.counts), gather(self.gallery.chosen)
        if not self.compared:
            return {"mcnemar": None, "fidelity": None, "confusion": None, "disagreements": []}
        merged, together = Pairs(), Disagreements()
        for counts in pairs:
            merged.counts.update(counts)
        for entries in galleries:
            together.merge(entries)
        only_reference, only_this = int(against[0]), int(against[1])
        p = mcnemar(only_reference, only_this)
        return {
            "mcnemar": {"only_reference": only_reference, "only_this": only_this, "p": p} if score.labelled else None,
            "fidelity": {
                "agreement": score.agreement,
                "agreement_interval": _bounds(score.agreement, score.images),
                "kl": score.kl,
                "rank_correlation": float(against[2]) / score.images,
                "cka": None,
            },
            "confusion": confusion(merged.counts, self.classes),
            "disagreements": together.chosen,
        }


def _bounds(share: float | None, images: int) -> list[float] | None:
    return None if share is None else list(interval(share, images))


def _of_class(images: int, correct: int) -> dict[str, Any]:
    return {"images": images, "correct": correct, "interval": _bounds(correct / images if images else None, images)}
