"""Views: how an image is seen, and the address that decides every random part of it.

The order of images is a function of (seed, epoch), a view of (seed, epoch, index), and from an image's second view in
a batch on of its number too, and a mixture of (seed, epoch, position in the epoch). So neither workers, processes, nor
a restart change what is trained on.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from distill.data.decode import is_deep, of_8_bits

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Views:
    """How images are cropped, augmented and mixed; timm's words and, but for mixing, timm's transforms."""

    img_size: int | tuple[int, int] | None = None
    """Height and width in pixels; None: the student's. Each model resizes the view to its own size."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area that a random crop takes; 1 1 resizes and crops the centre instead."""
    ratio: tuple[float, float] = (0.75, 1.3333)
    """Aspect ratios of the random crop."""
    hflip: float = 0.5
    """Probability of a mirror image."""
    vflip: float = 0.0
    """Probability of an image upside down."""
    auto_augment: str | None = None
    """timm's policies: rand-m9-mstd0.5-inc1 (RandAugment), 3a (3-Augment), augmix-m5-w4-d2, original."""
    color_jitter: float | None = None
    """Strength of brightness, contrast and saturation changes; only 3-Augment combines with it."""
    re_prob: float = 0.0
    """Probability of random erasing."""
    re_mode: Literal["const", "rand", "pixel"] = "pixel"
    """What is put in the erased place: zeros, one random colour, or noise."""
    mixup: float = 0.0
    """Alpha of mixup's Beta distribution; 0: none."""
    cutmix: float = 0.0
    """Alpha of CutMix's Beta distribution; 0: none."""
    mix_prob: float = 1.0
    """Probability that two images are mixed at all, where mixup or cutmix is on."""
    mix_switch_prob: float = 0.5
    """Probability of CutMix where both are on."""
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    """How pixels are resampled in training; validation is bicubic unless this is bilinear."""
    repeats: int = 1
    """Times that a batch shows each of its images, in a view of its own each time (repeated augmentation).

    An epoch has as many steps as without, and so comes by the first 1/repeats of the images in its order.
    """
    crop_pct: float = 0.875
    """Validation: the share of the resized image that the centre crop keeps."""

    @property
    def mixes(self) -> bool:
        """Whether two images are mixed."""
        return self.mix_prob > 0 and (self.mixup > 0 or self.cutmix > 0)

    @property
    def val_interpolation(self) -> str:
        """How pixels are resampled in validation."""
        return "bilinear" if self.interpolation == "bilinear" else "bicubic"


_NUMBERS = np.random.MT19937()
"""Stands in for NumPy's own generator within an address: exchanging it takes a hundredth of saving its state."""


@contextmanager
def at_address(*address: int | str) -> Iterator[None]:
    """Within, Python's, NumPy's and torch's random numbers are a function of the address alone; after, as before."""
    import torch

    of_numpy: Any = np.random  # whose types leave out the next three calls
    state, own, of_torch = random.getstate(), of_numpy.get_bit_generator(), torch.get_rng_state()
    seed = derived_seed(*address)
    random.seed(seed)
    of_numpy.set_bit_generator(_NUMBERS)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
        of_numpy.set_bit_generator(own)
        torch.set_rng_state(of_torch)


def derived_seed(*address: int | str) -> int:
    """A 63-bit seed from an address such as (seed, epoch, index)."""
    digest = hashlib.blake2b(repr(address).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def order(seed: int, epoch: int, images: int) -> np.ndarray:
    """The order [images] in which an epoch shows the images."""
    return np.random.default_rng(derived_seed(seed, epoch, "order")).permutation(images)


Transform = Callable[["Image"], "Tensor"]


def train_transform(views: Views, img_size: tuple[int, int], in_chans: int, mean: Any, std: Any) -> Transform:
    """Image -> random view [C, H, W]: uint8, or float in about 0..1 where something is erased.

    mean and std, one number a channel, are the level that augmentations fill with and the scale of erasing's noise.
    """
    import torch
    from timm.data.random_erasing import RandomErasing
    from timm.data.transforms_factory import transforms_imagenet_train

    from distill.posterize import mend_posterize

    colours = tuple(mean) if len(mean) == 3 else (float(np.mean(mean)),) * 3
    crops = views.scale != (1.0, 1.0)
    steps: Any = transforms_imagenet_train(
        img_size,
        auto_augment=views.auto_augment,
        color_jitter=views.color_jitter,  # pyright: ignore[reportArgumentType]
        interpolation=views.interpolation,
        mean=colours,
        normalize=False,
        separate=True,
    )
    _, augment, to_tensor = steps
    mend_posterize(augment)
    return _RandomView(
        flip=_flips(views),
        place=_random_crop(views, img_size) if crops else _centre_crop(views, img_size, 1.0),
        augment=augment,
        to_tensor=to_tensor,
        erase=RandomErasing(views.re_prob, mode=views.re_mode, device="cpu") if views.re_prob else None,
        level=torch.tensor(mean).view(-1, 1, 1),
        spread=torch.tensor(std).view(-1, 1, 1),
        in_chans=in_chans,
        # timm's colour operations expect three channels, so a grey view is made grey after them.
        augmented_chans=3 if views.auto_augment or views.color_jitter else in_chans,
    )


@dataclass(frozen=True, kw_only=True)
class _RandomView:
    """An object and no closure, for where loader processes are not forked they get it pickled."""

    flip: Callable[[Image], Image]
    place: Callable[[Image], Image]
    augment: Callable[[Image], Image]
    to_tensor: Callable[[Image], Tensor]
    erase: Callable[[Tensor], Tensor] | None
    level: Tensor
    spread: Tensor
    in_chans: int
    augmented_chans: int

    def __call__(self, image: Image) -> Tensor:
        image = self.flip(self.place(with_channels(image, self.augmented_chans)))
        pixels = self.to_tensor(with_channels(self.augment(image), self.in_chans))
        if self.erase is None:
            return pixels
        # timm's erasing draws its noise for a normalised image.
        return self.erase((pixels.float() / 255 - self.level) / self.spread) * self.spread + self.level


def val_transform(views: Views, img_size: tuple[int, int], in_chans: int) -> Transform:
    """Image -> the one view [C, H, W], uint8, that validation uses: shorter side resized, centre cropped."""
    return plain_transform(img_size, in_chans, crop_pct=views.crop_pct, interpolation=views.val_interpolation)


def plain_transform(
    img_size: tuple[int, int], in_chans: int, *, crop_pct: float, interpolation: str, crop_mode: str = "center"
) -> Transform:
    """Image -> its one view [C, H, W], uint8, without anything random; all words are timm's."""
    from timm.data.transforms import MaybePILToTensor

    return _PlainView(_place(img_size, crop_pct, interpolation, crop_mode), MaybePILToTensor(), in_chans)


@dataclass(frozen=True)
class _PlainView:
    place: Callable[[Image], Image]
    to_tensor: Callable[[Image], Tensor]
    in_chans: int

    def __call__(self, image: Image) -> Tensor:
        return self.to_tensor(self.place(with_channels(image, self.in_chans)))


def with_channels(image: Image, in_chans: int) -> Image:
    """The image as 1-channel grey or 3-channel colour."""
    mode = "L" if in_chans == 1 else "RGB"
    if image.mode == mode:
        return image
    if is_deep(image):  # of a data set of one's own; ours have decoded it
        image = of_8_bits(image)
    if image.mode in ("P", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def _random_crop(views: Views, img_size: tuple[int, int]) -> Callable[[Image], Image]:
    from timm.data.transforms import RandomResizedCropAndInterpolation

    crop: Any = RandomResizedCropAndInterpolation
    return crop(img_size, scale=views.scale, ratio=views.ratio, interpolation=views.interpolation)


def _centre_crop(views: Views, img_size: tuple[int, int], crop_pct: float) -> Callable[[Image], Image]:
    return _place(img_size, crop_pct, views.val_interpolation)


def _place(
    img_size: tuple[int, int], crop_pct: float, interpolation: str, crop_mode: str = "center"
) -> Callable[[Image], Image]:
    from timm.data.transforms_factory import transforms_imagenet_eval
    from torchvision.transforms import Compose

    steps = transforms_imagenet_eval(
        img_size, crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation, normalize=False
    )
    return Compose(steps.transforms[:-1])  # all but the last, which makes a tensor


def _flips(views: Views) -> Callable[[Image], Image]:
    from torchvision.transforms import Compose, RandomHorizontalFlip, RandomVerticalFlip

    return Compose([RandomHorizontalFlip(views.hflip), RandomVerticalFlip(views.vflip)])
