"""From a view to a model's input: channels, size, normalisation. The same for students and teachers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Preprocess(nn.Module):
    """Views [B, c, h, w], uint8 in 0..255 or float in 0..1, to what one model takes: [B, C, H, W], normalised.

    Every model has a module of its own, so that a teacher and a student see one view each with its own statistics.
    A grey view is repeated for a colour model and a colour view is weighed to luminance (ITU-R 601) for a grey one.
    A view of another size is resized (bicubic, antialias) and clamped to 0..1, as an image library would.

    img_size: (height, width); mean, std: one number a channel, in 0..1.
    """

    def __init__(self, img_size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.img_size = img_size
        self.in_chans = len(mean)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, views: Tensor) -> Tensor:
        x = views.float() / 255 if views.dtype == torch.uint8 else views.float()
        if x.shape[1] != self.in_chans:
            x = self._channels(x)
        if tuple(x.shape[-2:]) != self.img_size:
            x = F.interpolate(x, self.img_size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        return (x - cast(Tensor, self.mean)) / cast(Tensor, self.std)

    def _channels(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1:
            return x.expand(-1, self.in_chans, -1, -1)
        if x.shape[1] == 3 and self.in_chans == 1:
            weights = x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
            return (x * weights).sum(1, keepdim=True)
        raise ValueError(
            f"images have {x.shape[1]} channels but the model takes {self.in_chans}; use 1 or 3 for either"
        )
