"""Gradients of a loss's convolutions lie in memory as the weights do, whatever the grid's layout, with equal values."""

import pytest
import torch
from torch import nn

from distill.losses.bound.layout import with_plain_gradient


@pytest.mark.parametrize("options", [{"kernel_size": 1}, {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 16}])
@pytest.mark.parametrize("channels_last", [True, False])
def test_the_gradient_has_the_strides_of_the_weight(options, channels_last):
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 16, **options)
    mended = nn.Conv2d(16, 16, **options)
    mended.load_state_dict(plain.state_dict())
    grid = torch.randn(4, 8 * 8, 16).transpose(1, 2).unflatten(2, (8, 8))  # as a ViT gives it
    grid = grid if channels_last else grid.contiguous()
    for conv in (plain, with_plain_gradient(mended)):
        conv(grid).square().sum().backward()
    assert plain.weight.grad is not None
    assert mended.weight.grad is not None
    assert mended.weight.grad.stride() == mended.weight.stride()
    assert torch.equal(mended.weight.grad, plain.weight.grad)
