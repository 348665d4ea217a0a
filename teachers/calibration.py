"""Calibration: how far confidence lies from accuracy, and the one temperature that brings them together."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

BINS = 15
TEMPERATURES = (0.05, 20.0)


def reliability(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits [N, K], labels [N] -> [BINS, 3]: rows, sum of confidences, and rows that are right, by confidence.

    Confidence is the largest probability, 0 of logits that are not finite; bin b of n holds (b / n, (b + 1) / n].
    Tables of parts of a set add up.
    """
    confidence, decision = logits.float().softmax(-1).nan_to_num().max(-1)
    # A confidence that float32 rounds to 1, or an infinitesimal above, belongs to the last bin.
    bins = ((confidence * BINS).ceil() - 1).clamp(0, BINS - 1).long()
    rows = torch.stack([torch.ones_like(confidence), confidence, (decision == labels).float()], -1).double()
    return torch.zeros(BINS, 3, dtype=torch.float64, device=logits.device).index_add_(0, bins, rows)


def calibration_error(table: Tensor) -> float | None:
    """The expected calibration error of a `reliability` table, in 0..1 (Guo et al. 2017, arXiv:1706.04599).

    The mean over rows of |accuracy - confidence| of their bin; None for a table without rows.
    """
    rows, confidence, right = table.unbind(-1)
    return float((right - confidence).abs().sum() / rows.sum()) if rows.sum() else None


def temperature_of_use(logits: Tensor, labels: Tensor, reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> float:
    """`fit_temperature` to divide a classifier by for good; 1 where every row is right.

    The likelihood then only grows as T shrinks, which says nothing of other images and makes every answer certain.
    """
    wrong = reduce((logits.argmax(-1) != labels).sum().double().reshape(1))
    return fit_temperature(logits, labels, reduce) if wrong.item() else 1.0


def fit_temperature(logits: Tensor, labels: Tensor, reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> float:
    """The temperature T with the lowest negative log-likelihood of logits [N, K] / T (Guo et al. 2017).

    In float64 by Newton's method on 1 / T, in which the likelihood is concave, kept inside a bracket.
    T stays within TEMPERATURES, which matters where every row is right, so that no T is small enough.
    reduce: sums a small float64 tensor over processes that each hold a part of the rows.
    """
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    beta = 1.0
    for _ in range(100):
        slope, curvature = reduce(_derivatives(logits, labels, beta)).tolist()
        low, high = (low, beta) if slope > 0 else (beta, high)
        newton = beta - slope / curvature if curvature > 0 else math.inf
        step = newton if low < newton < high else math.sqrt(low * high)
        if abs(step - beta) <= 1e-9 * beta:
            break
        beta = step
    return 1 / beta


def rows_at_a_time(classes: int) -> int:
    """Rows of logits that are worked on at once, so that a part of them in float64 takes 8 MB at most."""
    return max(min(2**20 // max(classes, 1), 4096), 1)


def _derivatives(logits: Tensor, labels: Tensor, beta: float) -> Tensor:
    """The sums over rows of the first and second derivative of -log p(label) by beta = 1 / T, [2] of float64."""
    sums = torch.zeros(2, dtype=torch.float64)
    step = rows_at_a_time(logits.shape[1])
    for start in range(0, len(logits), step):
        part, wanted = logits[start : start + step].cpu().double(), labels[start : start + step].cpu()
        margin = part - part.gather(1, wanted.unsqueeze(1))  # [B, K], 0 at the label
        p = (beta * margin).softmax(-1)
        mean = (p * margin).sum(-1)
        variance = (p * (margin - mean.unsqueeze(1)).square()).sum(-1)
        sums += torch.stack([mean.sum(), variance.sum()])
    return sums
