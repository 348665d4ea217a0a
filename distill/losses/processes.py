"""What the losses that compare images with each other need of the other processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distill.losses.later import torch

if TYPE_CHECKING:
    from torch import Tensor


def world_size() -> int:
    """Processes that train together; 1 where there is no process group."""
    dist = torch.distributed
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them."""
    return torch.distributed.get_rank() if world_size() > 1 else 0


def gathered(x: Tensor) -> Tensor:
    """x [b, …] of every process, in their order -> [B, …]; x itself where there is one process.

    b has to be the same everywhere. The gradient of every process's loss flows back to where a row came from, so that
    the mean over processes, which distributed training takes, is the gradient of one process with the whole batch.
    """
    if world_size() == 1:
        return x
    from distill.losses.bound.collectives import Gather

    rows: Any = Gather.apply(x)
    return rows


def summed(x: Tensor) -> Tensor:
    """The sum of x over the processes, on each of them, with gradients like those of `gathered`."""
    if world_size() == 1:
        return x
    from distill.losses.bound.collectives import Sum

    total: Any = Sum.apply(x)
    return total


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of x, without gradients, over the processes."""
    x = x.detach() / world_size()
    if world_size() > 1:
        torch.distributed.all_reduce(x)
    return x
