"""From arrays of numbers to small pictures inside the page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

VIRIDIS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=float)
WARM = np.array([(214, 60, 0), (238, 92, 0), (255, 128, 0), (255, 168, 20), (255, 208, 60)], dtype=float)


def data_uri(image: Image.Image, *, photo: bool) -> str:
    """The picture as a data: URI, a photograph as WebP, a drawing of exact pixels as PNG."""
    buffer = io.BytesIO()
    if photo:
        image.save(buffer, "WEBP", quality=80, method=4)
    else:
        image.save(buffer, "PNG", optimize=True)
    kind = "webp" if photo else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def coloured(values: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Values [...] in 0..1 to colours [..., 3] in 0..255 between the palette's, evenly spaced."""
    places = np.linspace(0, 1, len(palette))
    return np.stack([np.interp(values, places, palette[:, channel]) for channel in range(3)], axis=-1)


def stretched(values: np.ndarray) -> np.ndarray:
    """The values moved and scaled to 0..1; zeros where they are all equal."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values, dtype=float)


def as_image(view: np.ndarray) -> np.ndarray:
    """A view [C, H, W] of 1 or 3 channels, in any range, as colours [H, W, 3] in 0..255."""
    colours = 255 * stretched(view.transpose(1, 2, 0))
    return np.broadcast_to(colours, (*colours.shape[:2], 3)) if colours.shape[2] == 1 else colours


def overlaid(view: np.ndarray, heat: np.ndarray, size: int) -> Image.Image:
    """A view [C, H, W] in grey, with a warm tint where heat [h, w] in 0..1 is high; its shorter side is `size`."""
    height, width = view.shape[1:]
    scale = size / min(height, width)
    wanted = round(width * scale), round(height * scale)
    grey = Image.fromarray(as_image(view).astype(np.uint8)).convert("L").resize(wanted, Image.Resampling.BICUBIC)
    warm = Image.fromarray(heat.astype(np.float32)).resize(wanted, Image.Resampling.BILINEAR)
    share = np.clip(np.asarray(warm), 0, 1)
    alpha = 0.72 * share[..., None] ** 1.3  # what is only a little warm stays grey
    base = 40 + 0.8 * np.asarray(grey, dtype=float)[..., None]
    return Image.fromarray((base * (1 - alpha) + coloured(share, WARM) * alpha).astype(np.uint8))


def mosaic(tiles: np.ndarray, columns: int, *, zoom: int, gap: int = 1) -> Image.Image:
    """Tiles [N, h, w, 3] in 0..255, row by row, enlarged by whole pixels, with transparent gaps between them."""
    count, height, width, _ = tiles.shape
    rows = -(-count // columns)
    tall, wide = height * zoom + gap, width * zoom + gap
    canvas = np.zeros((rows * tall - gap, columns * wide - gap, 4), dtype=np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * tall, number % columns * wide
        large = tile.repeat(zoom, axis=0).repeat(zoom, axis=1)
        canvas[top : top + height * zoom, left : left + width * zoom, :3] = large
        canvas[top : top + height * zoom, left : left + width * zoom, 3] = 255
    return Image.fromarray(canvas, "RGBA")
