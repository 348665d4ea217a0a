"""Counting: how often a model is right, and how close two models are, over a whole validation set exactly once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.loader import Batch
from teachers.calibration import BINS, calibration_error, reliability

if TYPE_CHECKING:
    from accelerate import Accelerator

Model = Callable[[Tensor], Tensor]
"""Views [B, C, H, W] -> logits [B, K]."""

SUMS = 7 + 3 * BINS


@dataclass(frozen=True, kw_only=True)
class Score:
    """One model on one set. Shares are in 0..1; None where there is nothing to compare with.

    labelled: images that top1 and top5 (K >= 5, else None) were counted on. nll: mean negative log-likelihood.
    ece: expected calibration error in 15 bins, on the labelled images.
    agreement, kl: share of equal decisions, and mean KL(reference ‖ model) in nats, over all images.
    """

    images: int
    labelled: int
    top1: float | None
    top5: float | None
    nll: float | None
    ece: float | None = None
    agreement: float | None = None
    kl: float | None = None


@torch.no_grad()
def score(
    models: Mapping[str, Model],
    batches: Iterable[Batch],
    *,
    device: torch.device,
    total: int,
    reference: Mapping[str, str] | None = None,
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
    advance: Callable[[int], None] = lambda images: None,
) -> dict[str, Score]:
    """Score models on the same batches; every image counts once, which `total`, the size of the set, asserts.

    reference: for a model's name, the name of the model it is compared with. reduce: sums a tensor over processes that
    each took a part of the batches. advance: told the number of images done, for a progress bar.
    """
    reference = reference or {}
    sums = {name: torch.zeros(SUMS, dtype=torch.float64) for name in models}
    classes = 0
    for batch in batches:
        views = batch.views.to(device, non_blocking=True)
        labels = None if batch.labels is None else batch.labels.to(device, non_blocking=True)
        logits = {name: model(views).float() for name, model in models.items()}
        for name, own in logits.items():
            classes = own.shape[-1]
            other = logits[reference[name]] if name in reference else None
            sums[name] += count(own, labels, other).cpu()
        advance(len(views))
    return {name: scored(reduce(sums[name]).tolist(), name in reference, classes, total) for name in models}


def summed(accelerator: Accelerator) -> Callable[[Tensor], Tensor]:
    """A function that sums a small float64 tensor over the processes."""

    def reduce(sums: Tensor) -> Tensor:
        total = accelerator.reduce(sums.to(accelerator.device), reduction="sum")
        assert isinstance(total, Tensor)
        return total.cpu()

    return reduce


def count(logits: Tensor, labels: Tensor | None, reference: Tensor | None) -> Tensor:
    """The sums over images that make a `Score`, float64 [SUMS], of logits [B, K], labels [B], others' [B, K]."""
    log_p = logits.log_softmax(-1)
    labelled = top1 = top5 = nll = agree = kl = 0.0
    table = torch.zeros(BINS, 3, dtype=torch.float64)
    if labels is not None:
        hits = logits.topk(min(5, logits.shape[-1]), dim=-1).indices == labels.unsqueeze(1)  # [B, 5]
        labelled, top1, top5 = len(labels), hits[:, 0].sum().item(), hits.sum().item()
        nll = F.nll_loss(log_p, labels, reduction="sum").item()
        table = reliability(logits, labels).cpu()
    if reference is not None:
        agree = (logits.argmax(-1) == reference.argmax(-1)).sum().item()
        kl = F.kl_div(log_p, reference.log_softmax(-1), reduction="sum", log_target=True).item()
    counts = torch.tensor([len(logits), labelled, top1, top5, nll, agree, kl], dtype=torch.float64)
    return torch.cat([counts, table.flatten()])


def scored(sums: list[float], compared: bool, classes: int, total: int) -> Score:
    """The score of what `count` summed. compared: against a reference; total: the size of the set."""
    images, labelled, top1, top5, nll, agree, kl = sums[:7]
    assert images == total, f"{images:.0f} images were counted, but the set has {total}"
    return Score(
        images=int(images),
        labelled=int(labelled),
        top1=top1 / labelled if labelled else None,
        top5=top5 / labelled if labelled and classes >= 5 else None,
        nll=nll / labelled if labelled else None,
        ece=calibration_error(torch.tensor(sums[7:]).view(BINS, 3)),
        agreement=agree / images if compared else None,
        kl=kl / images if compared else None,
    )


def interval(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % confidence interval of a share measured on n images (Wilson 1927): it never leaves 0..1."""
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)
