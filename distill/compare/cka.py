"""Linear CKA: how alike two layers arrange the same images, whatever their width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FEWEST = 4
"""Images in the smallest batch for which the unbiased estimator is defined."""


class MinibatchCKA:
    """Linear CKA between layers of two models from batches (Nguyen, Raghu & Kornblith 2021, arXiv:2010.15327).

    HSIC is estimated without bias on every batch (Song et al. 2012) and averaged, weighted by images; only sums of
    the size of layers × layers are kept. `sums` of processes that saw different batches add up.
    """

    def __init__(self, layers: int, reference_layers: int) -> None:
        self.shape = layers, reference_layers
        self.sums = torch.zeros(layers * reference_layers + layers + reference_layers, dtype=torch.float64)

    def add(self, features: Sequence[Tensor], reference: Sequence[Tensor]) -> None:
        """One batch: each layer's features [B, ...], of both models. A batch of fewer than FEWEST says nothing."""
        if len(features[0]) < FEWEST:
            return
        ours, theirs = [_gram(x) for x in features], [_gram(x) for x in reference]
        values = [hsic(a, b) for a in ours for b in theirs]
        values += [hsic(gram, gram) for gram in (*ours, *theirs)]
        self.sums += len(features[0]) * torch.stack(values).cpu()

    def values(self) -> list[list[float | None]]:
        """[layers][reference layers], about 0..1; below 0 by chance for unlike layers. None: a layer is constant."""
        rows, columns = self.shape
        cross, own, other = self.sums.split([rows * columns, rows, columns])
        scale = (own.clamp_min(0).unsqueeze(1) * other.clamp_min(0)).sqrt()
        shares = cross.view(rows, columns) / scale
        return [
            [value if scale[i, j] > 0 else None for j, value in enumerate(row)] for i, row in enumerate(shares.tolist())
        ]


def hsic(a: Tensor, b: Tensor) -> Tensor:
    """The unbiased HSIC of gram matrices [B, B] whose diagonals are 0, B >= 4 (Song et al. 2012, equation 5)."""
    n = len(a)
    trace = (a * b).sum()  # both are symmetric
    means = a.sum() * b.sum() / ((n - 1) * (n - 2))
    mixed = 2 / (n - 2) * (a.sum(0) @ b.sum(0))
    return (trace + means - mixed) / (n * (n - 3))


def _gram(features: Tensor) -> Tensor:
    # Centred for the sake of float32: a constant that is added to all images changes nothing in what is estimated.
    x = features.flatten(1).float()
    x = x - x.mean(0)
    gram = (x @ x.T).double()
    return gram.fill_diagonal_(0)
