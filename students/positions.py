"""Where a patch is: fixed position embeddings, and embeddings brought from one grid to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from students.vit import ViT


def sincos(grid: tuple[int, int], dim: int) -> Tensor:
    """Fixed positions [1, rows·columns, dim] of a grid, as in MoCo v3 (arXiv:2104.02057).

    A quarter of the channels each: sine and cosine of the column, sine and cosine of the row, at frequencies that fall
    from 1 towards 1/10000 geometrically.
    """
    y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    frequencies = 10000.0 ** -(torch.arange(dim // 4) / (dim // 4))
    angles = [place.flatten()[:, None] * frequencies for place in (x, y)]  # each [N, dim/4]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)[None]


def resize_pos_embed(pos_embed: Tensor, prefix: int, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Positions [1, prefix + N, D] of one grid -> those of another: bicubic, antialias; the prefix tokens' stay."""
    if source == target:
        return pos_embed
    grid = pos_embed[:, prefix:].transpose(1, 2).unflatten(2, source)  # [1, D, rows, columns]
    grid = F.interpolate(grid.float(), target, mode="bicubic", antialias=True).to(pos_embed.dtype)
    return torch.cat([pos_embed[:, :prefix], grid.flatten(2).transpose(1, 2)], dim=1)


def fit_pos_embed(model: ViT, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before weights are loaded: bring their positions to the model's grid. Theirs is taken to be square."""
    loaded = state.get(prefix + "pos_embed")
    if loaded is None or loaded.shape == model.pos_embed.shape or loaded.shape[-1] != model.pos_embed.shape[-1]:
        return
    mine = model.config.num_prefix_tokens
    theirs = sum(prefix + token in state for token in ("cls_token", "dist_token"))
    if theirs != mine:
        raise ValueError(
            f"the weights have {theirs} token(s) before the patches but the student has {mine}; "
            "build it with the class_token and distilled of the weights"
        )
    side = round((loaded.shape[1] - theirs) ** 0.5)
    if side * side + theirs != loaded.shape[1]:
        raise ValueError(
            f"the weights have {loaded.shape[1] - theirs} positions, which is no square grid; "
            "build the student with their img_size, or load their folder with students.load"
        )
    state[prefix + "pos_embed"] = resize_pos_embed(loaded, mine, (side, side), model.config.grid_size)
