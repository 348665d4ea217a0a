"""The class head inside a timm model: put another in its place, or divide it by a temperature."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from teachers.runtime.agreement import TOLERANCE


def classifiers(model: Any, name: str) -> tuple[nn.Linear | nn.Conv2d, ...]:
    """The last layers of a timm model: one, or two for a distilled ViT, whose logits are their mean.

    ValueError if they are neither linear layers nor 1×1 convolutions with a bias.
    """
    own = model.get_classifier()
    heads = own if isinstance(own, tuple) else (own,)
    for head in heads:
        linear = isinstance(head, nn.Linear) or (isinstance(head, nn.Conv2d) and head.kernel_size == (1, 1))
        if not linear or head.bias is None:
            raise ValueError(
                f"the head of '{name}' is a {type(head).__name__} and not a linear layer with a bias, so no other can "
                "take its place; fit one in the recipe with --teacher.head fit, or take another teacher"
            )
    return heads


@torch.no_grad()
def put(model: Any, weight: Tensor, bias: Tensor, x: Tensor, name: str) -> None:
    """Give a timm model, in eval mode and on the CPU, the head weight [K, D], bias [K] in the place of its own.

    x: normalised images [B, C, H, W] on which the model's logits have to be those of the head on its embedding.
    ValueError if they are not, or if its head is of another kind.
    """
    embedding = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(len(weight))
    for head in classifiers(model, name):
        head.weight.copy_(weight.view_as(head.weight))
        assert head.bias is not None
        head.bias.copy_(bias)
    expected = F.linear(embedding, weight, bias)
    off = float((model(x) - expected).abs().max() / expected.abs().max())
    if not off <= TOLERANCE:
        raise ValueError(
            f"'{name}' does more behind its embedding than a linear layer does (its logits are off by {off:.0e}); "
            "fit a head in the recipe with --teacher.head fit, or take another teacher"
        )


@torch.no_grad()
def divide(model: Any, temperature: float, name: str) -> None:
    """Divide the logits of a timm model by a temperature, for good."""
    for head in classifiers(model, name):
        assert head.bias is not None
        head.weight.div_(temperature)
        head.bias.div_(temperature)
