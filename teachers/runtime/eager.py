"""One pass of the model by PyTorch as it is: what every other runtime has to agree with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from teachers.runtime.contract import Answers, Core


def eager(model: Core, x: Tensor, layers: Sequence[int]) -> Answers:
    """Normalised images [B, C, H, W] to logits [B, K], embedding [B, D] and grids [B, C, H, W], in one pass.

    layers: rising; the order in which timm gives them back.
    """
    if layers:
        features, grids = model.forward_intermediates(x, indices=list(layers))
    else:
        features, grids = model.forward_features(x), []
    embedding = model.forward_head(features, pre_logits=True)
    return model.forward_head(features), embedding, dict(zip(layers, grids, strict=True))
