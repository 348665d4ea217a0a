"""What a Vision Transformer sees of an image: its patches, the patterns it looks for in them, where each one is."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.compare.page.pixels import VIRIDIS, as_image, coloured, data_uri, mosaic, stretched
from students import ViT

PATTERNS = 28
LARGEST_GRID = 14


def patches(vit: Any, x: Tensor) -> str:
    """One normalised image [1, C, H, W], cut as the model cuts it; a data: URI."""
    high, wide = vit.patch_embed.proj.kernel_size
    view = as_image(x[0].float().cpu().numpy())  # [H, W, 3]
    rows, columns = view.shape[0] // high, view.shape[1] // wide
    tiles = view[: rows * high, : columns * wide].reshape(rows, high, columns, wide, 3).transpose(0, 2, 1, 3, 4)
    zoom = max(round(224 / max(view.shape[:2])), 1)
    photo = zoom == 1 and view.shape[0] > 100
    image = mosaic(tiles.reshape(-1, high, wide, 3), columns, zoom=zoom, gap=max(high * zoom // 10, 2))
    return data_uri(image, photo=photo)


def patterns(vit: Any) -> str | None:
    """The first principal components of the patch embedding's filters, as pictures of one patch; a data: URI.

    None for images that are neither grey nor colour.
    """
    weight = vit.patch_embed.proj.weight.detach().float().cpu()  # [D, C, h, w]
    if weight.shape[1] not in (1, 3):
        return None
    _, _, directions = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    shown = directions[:PATTERNS].unflatten(1, weight.shape[1:]).numpy()  # [n, C, h, w]
    tiles = np.stack([as_image(direction) for direction in shown])
    zoom = max(36 // max(tiles.shape[1:3]), 1)
    return data_uri(mosaic(tiles, min(len(tiles), 7), zoom=zoom, gap=4), photo=False)


def similarity(vit: Any) -> np.ndarray | None:
    """Cosine similarities [rows, columns, rows, columns] of the position embedding's patches; None without one."""
    table = getattr(vit, "pos_embed", None)
    grid = vit.config.grid_size if isinstance(vit, ViT) else getattr(vit.patch_embed, "grid_size", None)
    if not isinstance(table, Tensor) or table.ndim != 3 or grid is None:
        return None
    rows, columns = grid
    embedding = table.detach().float().cpu()[0, -rows * columns :]  # the prefix tokens come first, where they are
    if len(embedding) != rows * columns:
        return None
    embedding = torch.nn.functional.normalize(embedding, dim=1)
    return (embedding @ embedding.T).view(rows, columns, rows, columns).numpy()


def positions(values: np.ndarray) -> str:
    """Similarities as a grid of grids: the small picture at a place is that place's likeness to all; a data: URI.

    Of a large grid every n-th place is shown.
    """
    step = max(-(-max(values.shape[:2]) // LARGEST_GRID), 1)
    shown = values[step // 2 :: step, step // 2 :: step]
    tiles = coloured(stretched(shown), VIRIDIS).reshape(-1, *values.shape[2:], 3)
    zoom = max(392 // (shown.shape[1] * values.shape[3]), 1)
    return data_uri(mosaic(tiles, shown.shape[1], zoom=zoom, gap=3), photo=False)
