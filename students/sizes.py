"""How large a student is and what it is made of: one frozen config, six known sizes. Imports no torch."""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from students.outputs import Shapes

if TYPE_CHECKING:
    from students.vit import ViT

Pool = Literal["token", "avg"]
PosEmbed = Literal["learn", "sincos"]
Act = Literal["gelu", "gelu_tanh", "relu", "silu"]
Norm = Literal["layernorm", "rmsnorm"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """A Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), in timm's words. The default is ViT-B/16.

    With `distilled` it is the DeiT of Touvron et al. 2021, arXiv:2012.12877.
    A value that no model can have is a ValueError when the config is made.
    """

    img_size: int | tuple[int, int] = 224
    """Pixels: a square's side, or (height, width)."""
    patch_size: int | tuple[int, int] = 16
    """Pixels of one patch: a square's side, or (height, width). It divides img_size."""
    in_chans: int = 3
    """Channels of an image."""
    num_classes: int | None = 1000
    """Outputs of a head. None: taken from the data by a recipe; 0: no head, the embedding; 1: one regression value."""
    global_pool: Pool = "token"
    """What the head reads: the class token, or the average of the patch tokens."""
    embed_dim: int = 768
    """Width of a token."""
    depth: int = 12
    """Number of blocks."""
    num_heads: int = 12
    """Attention heads of a block. It divides embed_dim."""
    mlp_ratio: float = 4.0
    """Width of a block's MLP, in embed_dim."""
    class_token: bool = True
    """Whether a class token is put before the patches."""
    distilled: bool = False
    """Whether a distillation token with a head of its own is added (DeiT)."""
    pos_embed: PosEmbed = "learn"
    """Position embedding: learnt, or fixed 2-D sines and cosines (its prefix tokens' rows are zero)."""
    qkv_bias: bool = True
    """Whether the projections to queries, keys and values have a bias."""
    qk_scale: float | None = None
    """Factor on queries times keys. None: 1 / sqrt(embed_dim / num_heads)."""
    drop_rate: float = 0.0
    """Dropout before the head."""
    pos_drop_rate: float = 0.0
    """Dropout after the position embedding."""
    proj_drop_rate: float = 0.0
    """Dropout after the attention's output projection and after each layer of the MLP."""
    attn_drop_rate: float = 0.0
    """Dropout of attention weights."""
    drop_path_rate: float = 0.0
    """Stochastic depth: chance that the last block's branch is skipped; it rises linearly from 0 at the first."""
    act_layer: Act = "gelu"
    """Activation of the MLP."""
    norm_layer: Norm = "layernorm"
    """Normalisation of tokens, with eps 1e-6."""
    init_values: float | None = None
    """Start of the layer scale's factors. None: no layer scale."""
    representation_size: int | None = None
    """Width of a hidden tanh layer before the head, as in the ViT paper's pre-training. None: no such layer."""
    mean: tuple[float, ...] | None = None
    """Mean of an image's channels, in 0..1. None: ImageNet's, and for other than 3 channels the average of those."""
    std: tuple[float, ...] | None = None
    """Standard deviation of an image's channels, in 0..1. None: as for mean."""

    def __post_init__(self) -> None:
        for name in ("img_size", "patch_size"):  # a list, as from YAML, would make the config unhashable
            if isinstance(size := getattr(self, name), list):
                object.__setattr__(self, name, tuple(size))
        self._check_numbers()
        self._check_words()
        (height, width), (patch_height, patch_width) = self.img_hw, self.patch_hw
        if height % patch_height or width % patch_width:
            raise ValueError(
                f"img_size {height}×{width} does not divide into patches of {patch_height}×{patch_width}; "
                f"choose a patch_size that divides it, or an img_size such as "
                f"{_nearest(height, patch_height)}×{_nearest(width, patch_width)}"
            )
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim {self.embed_dim} does not divide into num_heads {self.num_heads}; change either"
            )
        if self.pos_embed == "sincos" and self.embed_dim % 4:
            raise ValueError(
                f"pos_embed 'sincos' needs an embed_dim divisible by 4, not {self.embed_dim}; or use 'learn'"
            )
        if self.global_pool == "token" and not self.class_token:
            raise ValueError("global_pool 'token' reads a class token but class_token is False; use global_pool 'avg'")

    @property
    def img_hw(self) -> tuple[int, int]:
        """(height, width) of an image in pixels."""
        return _pair(self.img_size)

    @property
    def patch_hw(self) -> tuple[int, int]:
        """(height, width) of a patch in pixels."""
        return _pair(self.patch_size)

    @property
    def grid_size(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        (height, width), (patch_height, patch_width) = self.img_hw, self.patch_hw
        return height // patch_height, width // patch_width

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: 0, 1 or 2."""
        return self.class_token + self.distilled

    @property
    def input_mean(self) -> tuple[float, ...]:
        """`mean`, or what None stands for: one number a channel."""
        return self.mean or _statistic(IMAGENET_MEAN, self.in_chans)

    @property
    def input_std(self) -> tuple[float, ...]:
        """`std`, or what None stands for: one number a channel."""
        return self.std or _statistic(IMAGENET_STD, self.in_chans)

    def shapes(self) -> Shapes:
        """The shapes of the model's outputs, by arithmetic. ValueError if num_classes is None."""
        return Shapes(
            num_classes=self.known_classes(),
            has_token=self.distilled,
            embedding=self.representation_size or self.embed_dim,
            grids=dict.fromkeys(range(self.depth), (self.embed_dim, *self.grid_size)),
        )

    def build(self) -> ViT:
        """The model, freshly initialised. ValueError if num_classes is None."""
        from students.vit import ViT  # here, because it imports torch

        return ViT(self)

    def known_classes(self) -> int:
        """num_classes; ValueError if it is None."""
        if self.num_classes is None:
            raise ValueError(
                "num_classes is None, which a recipe fills in from its data; give a number (0: no head, 1: regression)"
            )
        return self.num_classes

    def override(self, **overrides: Any) -> ViTConfig:
        """This config with some fields changed. ValueError for a field there is not, naming the nearest."""
        fields = [field.name for field in dataclasses.fields(self)]
        for word in overrides:
            if word not in fields:
                near = difflib.get_close_matches(word, fields, n=1, cutoff=0.5)
                way_out = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(fields)}"
                raise ValueError(f"a ViT has no option {word!r}; {way_out}")
        return dataclasses.replace(self, **overrides)

    def _check_numbers(self) -> None:
        if not math.isfinite(self.mlp_ratio):
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}; use a number such as 4")
        sizes = {"in_chans": self.in_chans, "embed_dim": self.embed_dim, "depth": self.depth}
        sizes |= {"num_heads": self.num_heads, "the MLP's width": int(self.embed_dim * self.mlp_ratio)}
        sizes |= {"img_size": min(self.img_hw), "patch_size": min(self.patch_hw)}
        if self.representation_size is not None:
            sizes["representation_size"] = self.representation_size
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} is {size}; it must be 1 or more")
        if self.num_classes is not None and self.num_classes < 0:
            raise ValueError(f"num_classes is {self.num_classes}; it must be 0 (no head) or more")
        if self.qk_scale is not None and self.qk_scale <= 0:
            raise ValueError(f"qk_scale is {self.qk_scale}; it must be above 0, or None for 1 / sqrt(head width)")
        for name in ("drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"):
            rate = getattr(self, name)
            if not 0 <= rate < 1:
                raise ValueError(f"{name} is {rate}; it must be 0 or more and below 1")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.in_chans:
                raise ValueError(
                    f"in_chans is {self.in_chans} but {name} has {len(values)} numbers; give one a channel, or None"
                )
        if min(self.input_std) <= 0:
            raise ValueError(f"std is {self.std}; each must be above 0")

    def _check_words(self) -> None:
        for name, allowed in (("global_pool", Pool), ("pos_embed", PosEmbed), ("act_layer", Act), ("norm_layer", Norm)):
            if getattr(self, name) not in get_args(allowed):
                words = ", ".join(map(repr, get_args(allowed)))
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {words}")


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _nearest(size: int, patch: int) -> int:
    return max(round(size / patch), 1) * patch


def _statistic(imagenet: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return imagenet if channels == 3 else (round(sum(imagenet) / 3, 3),) * channels


VIT_TINY = ViTConfig(embed_dim=192, depth=12, num_heads=3)
VIT_SMALL = ViTConfig(embed_dim=384, depth=12, num_heads=6)
VIT_MEDIUM = ViTConfig(embed_dim=512, depth=12, num_heads=8)
VIT_BASE = ViTConfig(embed_dim=768, depth=12, num_heads=12)
VIT_LARGE = ViTConfig(embed_dim=1024, depth=24, num_heads=16)
VIT_HUGE = ViTConfig(embed_dim=1280, depth=32, num_heads=16, patch_size=14)


def vit_tiny(**overrides: Any) -> ViT:
    """ViT-Ti/16, 5.7 M parameters. Overrides are fields of `ViTConfig`; so for every size below."""
    return VIT_TINY.override(**overrides).build()


def vit_small(**overrides: Any) -> ViT:
    """ViT-S/16, 22 M parameters."""
    return VIT_SMALL.override(**overrides).build()


def vit_medium(**overrides: Any) -> ViT:
    """ViT-M/16, 39 M parameters."""
    return VIT_MEDIUM.override(**overrides).build()


def vit_base(**overrides: Any) -> ViT:
    """ViT-B/16, 87 M parameters."""
    return VIT_BASE.override(**overrides).build()


def vit_large(**overrides: Any) -> ViT:
    """ViT-L/16, 304 M parameters."""
    return VIT_LARGE.override(**overrides).build()


def vit_huge(**overrides: Any) -> ViT:
    """ViT-H/14, 632 M parameters."""
    return VIT_HUGE.override(**overrides).build()
