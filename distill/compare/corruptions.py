"""Corruptions of an image at five strengths, a function of the image, the strength and its index alone.

The kinds and, where torchvision's operation is the same, the strengths are those of ImageNet-C (Hendrycks & Dietterich
2019, arXiv:1903.12261). An image with a shorter side above 256 px is first resized to that, and lengths are shares of
the shorter side, so that a strength means the same for a photograph and for an icon.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distill.views import derived_seed, with_channels

if TYPE_CHECKING:
    from PIL.Image import Image

STRENGTHS = (1, 2, 3, 4, 5)
SHORTER_SIDE_PX = 256


def corrupt(image: Image, name: str, strength: int, *, index: int) -> Image:
    """The image, grey or RGB, under a corruption of CORRUPTIONS at a strength of 1 to 5."""
    from torchvision.transforms import InterpolationMode

    F = _functional()

    image = image if image.mode == "L" else with_channels(image, 3)
    if min(image.size) > SHORTER_SIDE_PX:
        image = F.resize(image, [SHORTER_SIDE_PX], interpolation=InterpolationMode.BICUBIC)
    return CORRUPTIONS[name](image, strength - 1, index)


def _gaussian_noise(image: Image, level: int, index: int) -> Image:
    import torch

    F = _functional()

    spread = 255 * (0.08, 0.12, 0.18, 0.26, 0.38)[level]
    generator = torch.Generator().manual_seed(derived_seed("gaussian noise", level, index))
    pixels = F.pil_to_tensor(image).float()
    noisy = pixels + spread * torch.randn(pixels.shape, generator=generator)
    return F.to_pil_image(noisy.round().clamp(0, 255).to(torch.uint8))


def _gaussian_blur(image: Image, level: int, index: int) -> Image:
    F = _functional()

    side = min(image.size)
    # ImageNet-C's at 224 px, and about CIFAR-10-C's at 32 px, where a share of the side alone would blur nothing.
    sigma = (1, 2, 3, 4, 6)[level] * side / 224 + 0.3 * max(1 - side / 224, 0)
    reach = min(math.ceil(3 * sigma), side - 1)  # the border is a reflection, which has no more pixels than that
    return F.gaussian_blur(image, [2 * reach + 1] * 2, [sigma] * 2) if reach else image


def _brightness(image: Image, level: int, index: int) -> Image:
    F = _functional()

    return F.adjust_brightness(image, (1.3, 1.6, 1.9, 2.2, 2.5)[level])


def _contrast(image: Image, level: int, index: int) -> Image:
    F = _functional()

    return F.adjust_contrast(image, (0.4, 0.3, 0.2, 0.1, 0.05)[level])


def _jpeg(image: Image, level: int, index: int) -> Image:
    F = _functional()

    return F.jpeg(image, (25, 18, 15, 10, 7)[level])


def _pixelate(image: Image, level: int, index: int) -> Image:
    from torchvision.transforms import InterpolationMode

    F = _functional()

    share = (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    size = [image.height, image.width]
    small = [max(round(share * side), 1) for side in size]
    coarse = F.resize(image, small, interpolation=InterpolationMode.BOX)
    return F.resize(coarse, size, interpolation=InterpolationMode.NEAREST)


def _functional() -> Any:
    """torchvision's operations, which take PIL images though their annotations say tensors; loaded when needed."""
    from torchvision.transforms.v2 import functional

    return functional


CORRUPTIONS: dict[str, Callable[[Image, int, int], Image]] = {
    "gaussian noise": _gaussian_noise,
    "gaussian blur": _gaussian_blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "jpeg": _jpeg,
    "pixelate": _pixelate,
}
