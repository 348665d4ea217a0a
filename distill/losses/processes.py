"""What the losses that compare images with each other need of the other processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Processes that train together; 1 where there is no process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them."""
    return dist.get_rank() if world_size() > 1 else 0


def gathered(x: Tensor) -> Tensor:
    """x [b, …] of every process, in their order -> [B, …]; x itself where there is one process.

    b has to be the same everywhere. The gradient of every process's loss flows back to where a row came from, so that
    the mean over processes, which distributed training takes, is the gradient of one process with the whole batch.
    """
    if world_size() == 1:
        return x
    rows: Any = _Gather.apply(x)
    return rows


class _Gather(torch.autograd.Function):
    # torch.distributed.nn's own all_gather gives wrong gradients on gloo where a gradient is not contiguous.
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        everyone = x.new_empty(world_size() * len(x), *x.shape[1:])
        dist.all_gather_into_tensor(everyone, x.contiguous())
        return everyone

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        own = gradient.new_empty(len(gradient) // world_size(), *gradient.shape[1:])
        dist.reduce_scatter_tensor(own, gradient.contiguous())
        return own


def summed(x: Tensor) -> Tensor:
    """The sum of x over the processes, on each of them, with gradients like those of `gathered`."""
    if world_size() == 1:
        return x
    total: Any = _Sum.apply(x)
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of x, without gradients, over the processes."""
    x = x.detach() / world_size()
    if world_size() > 1:
        dist.all_reduce(x)
    return x
