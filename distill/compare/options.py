"""How an ONNX file takes images, where it does not say so itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OnnxInput:
    """How images are prepared for ONNX files that do not say it themselves."""

    img_size: tuple[int, int] | None = None
    """Height and width in pixels; None: those of the file's input."""
    mean: tuple[float, ...] | None = None
    """Mean that images are normalised with, one number a channel, in 0..1; 0 where the file does it."""
    std: tuple[float, ...] | None = None
    """Standard deviation that images are normalised with, one number a channel; 1 where the file does it."""
    crop_pct: float = 0.875
    """The share of the resized image that the centre crop keeps."""
    interpolation: str = "bicubic"
    """How pixels are resampled: bicubic, bilinear …"""
