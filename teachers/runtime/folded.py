"""Eager PyTorch for CNNs: BatchNorm folded into the convolutions, and these channels-last."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from teachers.runtime.agreement import check
from teachers.runtime.contract import Answers, Core
from teachers.runtime.eager import eager
from teachers.runtime.fold import fold


class FoldedCore:
    """A copy of a CNN with its BatchNorm, if any, folded, channels-last inside; grids leave it contiguous.

    model: the copy.
    """

    def __init__(self, model: Core, layers: tuple[int, ...], note: str = "eager, BatchNorm folded") -> None:
        self.model = model
        self.layers = layers
        self.note = note

    def __call__(self, x: Tensor) -> Answers:
        logits, embedding, grids = eager(self.model, x.contiguous(memory_format=torch.channels_last), self.layers)
        # The layout that every runtime gives: a loss that views a grid must not depend on what runs.
        return logits, embedding, {layer: grid.contiguous() for layer, grid in grids.items()}


def folded_core(model: nn.Module, x: Tensor, layers: tuple[int, ...]) -> FoldedCore | None:
    """The model as a `FoldedCore`, checked on x against eager; None where nothing folds, or not without an error.

    A CNN without BatchNorm is one on a GPU, whose convolutions are made for channels-last.
    x: normalised images [B >= 2, C, H, W].
    """
    try:
        copy, count = fold(model, lambda plain: eager(plain, x[:1], layers))
        if not count and not (x.is_cuda and convolutional(model)):
            return None
        note = "eager, BatchNorm folded" if count else "eager, channels-last"
        core = FoldedCore(cast(Any, copy.to(memory_format=torch.channels_last)), layers, note)
        check(core, model, x)
    except Exception:  # an odd module does not stand it; the model as it is always runs
        return None
    return core


def convolutional(model: nn.Module) -> bool:
    """Whether a model is a CNN: it looks at neighbouring places in more than the one convolution that cuts patches."""
    return sum(isinstance(one, nn.Conv2d) and max(one.kernel_size) > 1 for one in model.modules()) > 1
