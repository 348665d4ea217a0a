"""timm's posterize at its strongest: 0 bits, a black image, which Pillow 13 refuses where earlier ones drew it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image
from timm.data import auto_augment


def posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    """timm's operation, with 0 bits as the policies' papers and older Pillow have it: all pixels 0."""
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits_to_keep, **options)


def mend_posterize(augment: Any) -> None:
    """Let the policies within a composed transform use `posterize` above."""
    for operation in operations(augment):
        if operation.aug_fn is auto_augment.posterize:
            operation.aug_fn = posterize


def operations(augment: Any) -> Iterator[Any]:
    """timm's operations within a composed transform: RandAugment lists them, AutoAugment lists lists of them."""
    for step in augment.transforms:
        for policy in (getattr(step, "ops", []), *getattr(step, "policy", [])):
            yield from policy
