"""On which terms a model sees an image: its size, its crop, its channels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from distill.views import Transform, Views, with_channels

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Terms:
    """Called on an image it gives the one view [C, H, W], uint8, that a model is measured on; timm's transforms.

    img_size: (height, width) of the view. crop_pct: the share of the resized image that the crop keeps.
    crop_mode: timm's "center", "squash" or "border". Equal terms give equal views, which are made once.
    """

    img_size: tuple[int, int]
    in_chans: int = 3
    crop_pct: float = 0.875
    interpolation: str = "bicubic"
    crop_mode: str = "center"

    def __call__(self, image: Image) -> Tensor:
        return self._transform(with_channels(image, self.in_chans))

    @cached_property
    def _transform(self) -> Transform:
        from timm.data.transforms_factory import transforms_imagenet_eval

        return transforms_imagenet_eval(
            self.img_size,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
            interpolation=self.interpolation,
            normalize=False,
        )


def of_views(views: Views, view_size: tuple[int, int], in_chans: int) -> Terms:
    """The terms of a recipe's validation, `distill.views.val_transform`."""
    return Terms(view_size, in_chans, views.crop_pct, views.val_interpolation)
