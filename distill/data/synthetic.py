"""Images made from numbers: noise over a pattern of the class, for rehearsals and benchmarks."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Images of any size and number: a blurred pattern of the class, shifted, under noise. Nothing is read.

    The image is a function of (seed, split, index) alone, and its class is index mod num_classes.
    """

    images: int = 10_000
    """Images to train on."""
    val_images: int = 1_000
    """Images to validate on."""
    num_classes: int = 10
    """Classes, named class_0 ..."""
    img_size: int = 224
    """Height and width in pixels."""
    in_chans: Literal[1, 3] = 3
    """1: grey; 3: colour."""
    noise: float = 0.5
    """Share of the noise in the image, 0 to 1; at 1 there is nothing to learn."""
    seed: int = 0
    """Of the patterns and the noise; not the run's."""

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(f"class_{label}" for label in range(self.num_classes))

    def train(self) -> SyntheticImages:
        return self._split(0, "images")

    def val(self) -> SyntheticImages:
        return self._split(1, "val_images")

    def fingerprint(self) -> str:
        return f"synthetic {asdict(self)}"

    def _split(self, split: int, field: str) -> SyntheticImages:
        for name in (field, "num_classes", "img_size"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise ValueError(f"data.{name} is {getattr(self, name)}; use --data.{option} 1 or more")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"data.noise is {self.noise}; use --data.noise 0 to 1")
        return SyntheticImages(self, split, getattr(self, field))


@dataclass(frozen=True)
class SyntheticImages:
    """One split; split 0 is for training."""

    data: Synthetic
    split: int
    images: int

    @property
    def labels(self) -> np.ndarray:
        return np.arange(self.images) % self.data.num_classes

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> tuple[Image, int]:
        from PIL import Image

        if not 0 <= index < self.images:
            raise IndexError(index)
        data, label = self.data, index % self.data.num_classes
        rng = np.random.default_rng((data.seed, self.split, index))
        pattern = _pattern(data.seed, label, data.img_size, data.in_chans)
        across, down = rng.integers(0, max(data.img_size // 4, 1), 2)
        shifted = np.roll(pattern, (down, across), axis=(0, 1))
        noise = np.frombuffer(rng.bytes(shifted.size), dtype=np.uint8).reshape(shifted.shape)
        weight = round(256 * data.noise)
        mixed = (shifted.astype(np.uint16) * (256 - weight) + noise.astype(np.uint16) * weight) >> 8
        return Image.fromarray(mixed.astype(np.uint8)), label


@functools.lru_cache(maxsize=1024)
def _pattern(seed: int, label: int, size: int, channels: int) -> np.ndarray:
    from PIL import Image

    coarse = np.random.default_rng((seed, label)).integers(0, 256, (4, 4, channels), dtype=np.uint8)
    image = Image.fromarray(coarse[:, :, 0] if channels == 1 else coarse)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
