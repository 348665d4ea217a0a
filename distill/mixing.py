"""Mixup and CutMix between neighbours of a batch, drawn by position in the epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.views import Views, derived_seed


def mix(
    images: Tensor, labels: Tensor | None, views: Views, num_classes: int, *, seed: int, epoch: int, position: int
) -> tuple[Tensor, Tensor | None]:
    """Mix image 2i with image 2i + 1 of a batch: images [B, C, H, W], labels [B] -> [B, C, H, W], [B, K].

    The images of an epoch come in random order, so neighbours are random partners, and a pair stays together however
    the batch is divided. `position` is that of the batch's first image in the epoch and, like B, even. Each pair draws
    its own share: mixup (Zhang et al. 2018, arXiv:1710.09412) blends, CutMix (Yun et al. 2019, arXiv:1905.04899)
    pastes a box, and its share is what the clipped box really covers.
    """
    assert len(images) % 2 == 0
    assert position % 2 == 0
    if images.dtype == torch.uint8:
        images = images.float() / 255
    pairs = range(position // 2, (position + len(images)) // 2)
    height, width = images.shape[-2:]
    kept = [pair_kept(views, height, width, derived_seed(seed, epoch, pair, "mix")) for pair in pairs]
    keep = kept_pixels(kept, images).repeat_interleave(2, 0).unsqueeze(1)  # [B, 1, H, W]
    mixed = torch.lerp(_partners(images), images, keep.expand_as(images))
    if labels is None:
        return mixed, None
    share = keep.mean((1, 2, 3)).unsqueeze(1)  # [B, 1]
    one_hot = F.one_hot(labels, num_classes).float()
    return mixed, torch.lerp(_partners(one_hot), one_hot, share)


Kept = tuple[float, int, int, int, int]
"""What a pair's images keep of themselves: a share everywhere but in a box (top, bottom, left, right), where none."""


def pair_kept(views: Views, height: int, width: int, seed: int) -> Kept:
    """Draw what a pair keeps: all of it, or a share of each pixel (mixup), or all but a box (CutMix)."""
    rng = np.random.default_rng(seed)
    if rng.random() >= views.mix_prob:
        return 1.0, 0, 0, 0, 0
    if views.cutmix > 0 and (views.mixup <= 0 or rng.random() < views.mix_switch_prob):
        side = np.sqrt(1 - rng.beta(views.cutmix, views.cutmix))
        top, bottom = _span(rng, height, side)
        left, right = _span(rng, width, side)
        return 1.0, top, bottom, left, right
    return rng.beta(views.mixup, views.mixup), 0, 0, 0, 0


def kept_pixels(kept: Sequence[Kept], like: Tensor) -> Tensor:
    """How much of its own image each pixel of each pair keeps, float32 [P, H, W], made on the images' device.

    like: images [B, C, H, W]. Five numbers a pair are copied there, not a mask of its pixels.
    """
    pinned = torch.tensor(kept, dtype=torch.float32, pin_memory=like.is_cuda)  # the host does not wait for its copy
    numbers = pinned.to(like.device, non_blocking=True)  # [P, 5]
    share, top, bottom, left, right = numbers.view(-1, 5, 1, 1).unbind(1)  # each [P, 1, 1]
    rows = torch.arange(like.shape[-2], device=like.device).view(1, -1, 1)
    columns = torch.arange(like.shape[-1], device=like.device).view(1, 1, -1)
    boxed = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)  # [P, H, W]
    return torch.where(boxed, torch.zeros_like(share), share)


def _span(rng: np.random.Generator, length: int, share: float) -> tuple[int, int]:
    centre, half = int(rng.integers(length)), int(length * share) // 2
    return max(centre - half, 0), min(centre + half, length)


def _partners(x: Tensor) -> Tensor:
    return x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
