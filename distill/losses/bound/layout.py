"""Convolutions of the losses whose weights' gradients lie in memory as the weights do."""

from __future__ import annotations

from torch import nn


def with_plain_gradient(conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution, whose weight's gradient has the weight's own strides where a dimension of it is 1.

    A ViT's grids are channels-last, and so is the gradient then. With a dimension of 1 it lies in memory the same
    either way, so nothing is copied; but distributed training compares the strides alone, and warns.
    """
    if 1 in conv.weight.shape:
        conv.weight.register_hook(lambda gradient: gradient.flatten().view(gradient.shape))
    return conv
