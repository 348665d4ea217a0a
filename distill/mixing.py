"""Mixup and CutMix between neighbours of a batch, drawn by position in the epoch."""

from __future__ import annotations

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
    height, width = images.shape[-2:]
    pairs = range(position // 2, (position + len(images)) // 2)
    keeps = np.stack([pair_mask(views, height, width, derived_seed(seed, epoch, pair, "mix")) for pair in pairs])
    keep = torch.from_numpy(keeps).to(images.device).repeat_interleave(2, 0).unsqueeze(1)  # [B, 1, H, W]
    mixed = torch.lerp(_partners(images), images, keep.expand_as(images))
    if labels is None:
        return mixed, None
    share = keep.mean((1, 2, 3)).unsqueeze(1)  # [B, 1]
    one_hot = F.one_hot(labels, num_classes).float()
    return mixed, torch.lerp(_partners(one_hot), one_hot, share)


def pair_mask(views: Views, height: int, width: int, seed: int) -> np.ndarray:
    """How much of its own image each pixel of a pair keeps, float32 [height, width]; the rest is its partner's."""
    rng = np.random.default_rng(seed)
    mask = np.ones((height, width), dtype=np.float32)
    if rng.random() >= views.mix_prob:
        return mask
    if views.cutmix > 0 and (views.mixup <= 0 or rng.random() < views.mix_switch_prob):
        side = np.sqrt(1 - rng.beta(views.cutmix, views.cutmix))
        top, bottom = _span(rng, height, side)
        left, right = _span(rng, width, side)
        mask[top:bottom, left:right] = 0
    else:
        mask[:] = rng.beta(views.mixup, views.mixup)
    return mask


def _span(rng: np.random.Generator, length: int, share: float) -> tuple[int, int]:
    centre, half = int(rng.integers(length)), int(length * share) // 2
    return max(centre - half, 0), min(centre + half, length)


def _partners(x: Tensor) -> Tensor:
    return x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
