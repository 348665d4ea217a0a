"""What a student drops, drawn for each image from a seed of its own, so that it does not matter which process draws.

Integers of 32 bits are hashed, so the same is drawn on every device, in every precision, compiled or not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BITS = 0xFFFFFFFF


def image_seeds(seed: int, first: int, images: int, device: torch.device | None = None) -> Tensor:
    """[images], int64 of 32 bits: the seeds of the images at places first, first + 1, … of a step drawn by `seed`."""
    places = torch.arange(first, first + images, device=device)
    return hashed(places ^ ((seed ^ seed >> 32) & BITS))


def hashed(x: Tensor) -> Tensor:
    """Integers of 32 bits, in int64, to others; no two to the same (Ettinger's lowbias32 with constants below 2^31).

    In 64 bits, because products of 32 by 31 bits do not overflow there, and no device shifts unsigned numbers alike.
    """
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & BITS
    x = x ^ (x >> 15)
    x = (x * 0x735A2D97) & BITS
    return x ^ (x >> 15)


def at(seeds: Tensor, site: int | Tensor) -> Tensor:
    """Seeds of one place in the model, from the images' seeds."""
    return hashed(seeds ^ ((site + 1) * 0x1E3779B9 & BITS))


def kept(seeds: Tensor, shape: tuple[int, ...], rate: float) -> Tensor:
    """seeds [B] -> bool [B, *shape], each False with probability `rate`."""
    elements = hashed(torch.arange(math.prod(shape), device=seeds.device)).view(shape)
    return hashed(elements ^ seeds.view(-1, *[1] * len(shape))) >= round(rate * 2**32)


def drop(x: Tensor, rate: float, seeds: Tensor) -> Tensor:
    """x [B, …] with a share `rate` of its elements 0 and the others scaled up to keep the expectation."""
    return torch.where(kept(seeds, tuple(x.shape[1:]), rate), x / (1 - rate), 0)


def path_factors(seeds: Tensor, rates: Tensor) -> Tensor:
    """seeds [B], rates [L] of L blocks -> [L, 2, B, 1, 1], what to multiply a block's two branches of an image with.

    0 with the block's rate, else 1 / (1 - rate).
    """
    sites = torch.arange(2 * len(rates), device=seeds.device).view(-1, 2, 1)
    keeps = at(seeds, sites) >= (rates * 2.0**32).long().view(-1, 1, 1)  # [L, 2, B]
    return (keeps / (1 - rates).view(-1, 1, 1))[..., None, None]
