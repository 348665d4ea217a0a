"""The Vision Transformer on one page (arXiv:2010.11929), with DeiT's distillation token (arXiv:2012.12877).

Every parameter has timm's name, so weights go from here to timm and back, strictly and with equal outputs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from students.draws import at, drop, path_factors
from students.outputs import Outputs
from students.positions import fit_pos_embed, resize_pos_embed, sincos
from students.sizes import ViTConfig

ACTS = {"gelu": nn.GELU, "gelu_tanh": partial(nn.GELU, approximate="tanh"), "relu": nn.ReLU, "silu": nn.SiLU}
SHORT = 64  # tokens; so few train faster on a CPU through whole matrices than through torch's fused attention
NORMS = {"layernorm": partial(nn.LayerNorm, eps=1e-6), "rmsnorm": partial(nn.RMSNorm, eps=1e-6)}


class PatchEmbed(nn.Module):
    """Images [B, C, H, W] -> patch tokens [B, N, D], row by row."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.in_chans, config.embed_dim, config.patch_hw, stride=config.patch_hw)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class Dropout(nn.Dropout):
    """torch's dropout; with seeds [B] what is dropped of an image is a function of its seed and the place, `site`."""

    def forward(self, input: Tensor, seeds: Tensor | None = None, site: int = 0) -> Tensor:
        if seeds is None or not self.training or self.p == 0:
            return super().forward(input)
        return drop(input, self.p, at(seeds, site))


class Attention(nn.Module):
    """Tokens [B, N, D] -> tokens [B, N, D]: every token asks every other."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.scale = config.qk_scale
        self.attn_drop = config.attn_drop_rate
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim, bias=config.qkv_bias)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)
        self.proj_drop = Dropout(config.proj_drop_rate)

    def forward(self, x: Tensor, seeds: Tensor | None = None, read: int | None = None) -> Tensor:
        """read: how many tokens at the front ask, and come out; None: every token."""
        dropout, heads = self.attn_drop if self.training else 0.0, self.num_heads
        scale = (x.shape[-1] // heads) ** -0.5 if self.scale is None else self.scale
        parts = self._project(x, read)
        if self.training and dropout == 0 and x.device.type == "cpu" and x.shape[1] <= SHORT:
            # Head by head: all in one go they would first be copied to lie side by side.
            each = [head for part in parts for head in part.unbind(2)]  # 3H × [B, N, D/H]
            triples = zip(each[:heads], each[heads : 2 * heads], each[2 * heads :], strict=True)
            # As bmm, for what @ does to broadcast is there even where there is nothing to, and is undone going back.
            each = [torch.bmm(torch.bmm(q * scale, k.transpose(1, 2)).softmax(-1), v) for q, k, v in triples]
            answers = torch.cat(each, -1)
        else:
            q, k, v = (role for part in parts for role in part.transpose(1, 2).split(heads, 1))  # [B, H, N, D/H]
            if dropout and seeds is not None:  # torch's own attention draws for itself
                attention = (q * scale @ k.transpose(-2, -1)).softmax(-1)  # [B, H, N, N]
                answers = drop(attention, dropout, at(seeds, 0)) @ v
            else:
                answers = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
            answers = answers.transpose(1, 2).flatten(2)
        return self.proj_drop(self.proj(answers), seeds, 1)

    def _project(self, x: Tensor, read: int | None) -> list[Tensor]:
        """Tokens [B, N, D] -> queries of the first `read`, keys and values of all, [B, N, heads, D/H] together."""
        qkv, dim = self.qkv, x.shape[-1]
        if read is None:
            return [qkv(x).unflatten(-1, (3 * self.num_heads, -1))]
        of_q, of_kv = qkv.weight.split((dim, 2 * dim))
        bias_q, bias_kv = (None, None) if qkv.bias is None else qkv.bias.split((dim, 2 * dim))
        parts = F.linear(x[:, :read], of_q, bias_q), F.linear(x, of_kv, bias_kv)
        return [part.unflatten(-1, (-1, dim // self.num_heads)) for part in parts]


class Mlp(nn.Module):
    """Tokens [B, N, D] -> tokens [B, N, D], each on its own."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        hidden = int(config.embed_dim * config.mlp_ratio)
        self.fc1 = nn.Linear(config.embed_dim, hidden)
        self.act = ACTS[config.act_layer]()
        self.fc2 = nn.Linear(hidden, config.embed_dim)
        self.drop = Dropout(config.proj_drop_rate)

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)), seeds, 2)), seeds, 3)


class LayerScale(nn.Module):
    """One learnt factor a channel (CaiT, arXiv:2103.17239)."""

    def __init__(self, dim: int, init_values: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init_values))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class DropPath(nn.Module):
    """x + branch, [B, N, D], with stochastic depth (arXiv:1603.09382).

    In training a sample's branch is 0, or scaled up to keep the expectation. factor: [B, 1, 1], what was drawn for each
    sample; none: it is drawn from torch's global state.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, branch: Tensor, factor: Tensor | None = None) -> Tensor:
        if factor is None:  # asked first, so that blocks of any rate share one compiled graph
            if not self.training or self.rate == 0:
                return x + branch
            factor = F.dropout(x.new_ones(x.shape[0], 1, 1), self.rate)
        # The product on its own would lie between tensors that the backward pass keeps, and leave a hole as it goes:
        # until glibc 2.38 nothing of the same size fits there.
        return torch.addcmul(x, branch, factor.to(x.dtype))


class Block(nn.Module):
    """Tokens [B, N, D] -> tokens [B, N, D]: attention, then MLP, each normalised first and added back.

    factors: [2, B, 1, 1], what the two branches of each image are multiplied with; seeds: [B], of its dropouts. Without
    them both are drawn from torch's global state. read: how many tokens at the front are computed; none: all.
    """

    def __init__(self, config: ViTConfig, drop_path: float) -> None:
        super().__init__()
        norm, scale = NORMS[config.norm_layer], config.init_values
        self.norm1 = norm(config.embed_dim)
        self.attn = Attention(config)
        self.ls1 = nn.Identity() if scale is None else LayerScale(config.embed_dim, scale)
        self.norm2 = norm(config.embed_dim)
        self.mlp = Mlp(config)
        self.ls2 = nn.Identity() if scale is None else LayerScale(config.embed_dim, scale)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Tensor, factors: Tensor | None = None, seeds: Tensor | None = None, read: int | None = None
    ) -> Tensor:
        first, second = (None, None) if factors is None else factors.unbind(0)
        x = self.drop_path(x[:, :read], self.ls1(self.attn(self.norm1(x), seeds, read)), first)
        return self.drop_path(x, self.ls2(self.mlp(self.norm2(x), seeds)), second)


class ViT(nn.Module):
    """A Vision Transformer. Called on images [B, C, H, W] it returns logits [B, K], or [B, D] without a head.

    With a distillation token the logits are the mean of both heads', in training too; `outputs` gives them apart.
    Images may be of any size that patches divide: the position embedding is resized to it (bicubic, antialias), as it
    is when weights of another square grid are loaded. ValueError for other images or weights.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        dim, norm, num_classes = config.embed_dim, NORMS[config.norm_layer], config.known_classes()
        rows, columns = config.grid_size
        features = config.representation_size or dim

        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if config.class_token else None
        self.dist_token = nn.Parameter(torch.empty(1, 1, dim)) if config.distilled else None
        self.pos_embed = nn.Parameter(torch.empty(1, config.num_prefix_tokens + rows * columns, dim))
        self.pos_drop = Dropout(config.pos_drop_rate)
        rates = [config.drop_path_rate * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.Sequential(*[Block(config, rate) for rate in rates])
        # timm's two places for the last norm: before pooling to a token, after averaging.
        self.norm = norm(dim) if config.global_pool == "token" else nn.Identity()
        self.fc_norm = norm(dim) if config.global_pool == "avg" else nn.Identity()
        self.pre_logits = nn.Identity()
        if config.representation_size:
            self.pre_logits = nn.Sequential(OrderedDict(fc=nn.Linear(dim, features), act=nn.Tanh()))
        self.head_drop = Dropout(config.drop_rate)
        self.head = nn.Linear(features, num_classes) if num_classes else nn.Identity()
        if config.distilled:
            self.head_dist = nn.Linear(features, num_classes) if num_classes else nn.Identity()

        self.init_weights()
        self.register_load_state_dict_pre_hook(fit_pos_embed)

    def init_weights(self) -> None:
        """Truncated normal of 0.02 for linear weights, tokens and positions; 0 for biases.

        The patch embedding keeps torch's own start, uniform within 1 / sqrt(C·h·w) of a patch, as in timm: 0.02 is
        right for 16×16 patches of three channels, but would drown small patches in the position embedding.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for token in (self.cls_token, self.dist_token, self.pos_embed):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)
        if self.config.pos_embed == "sincos":
            # A parameter and no buffer, so that the saved weights are complete for timm, which learns positions.
            fixed = sincos(self.config.grid_size, self.config.embed_dim)
            self.pos_embed = nn.Parameter(F.pad(fixed, (0, 0, self.config.num_prefix_tokens, 0)), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        out = self.outputs(images)
        return out.logits if out.token_logits is None else (out.logits + out.token_logits) / 2

    def outputs(
        self, images: Tensor, layers: Sequence[int] = (), seeds: Tensor | None = None, *, lean: bool = False
    ) -> Outputs:
        """Images [B, C, H, W] -> `Outputs`: both heads apart, the embedding, and the grids of the layers asked for.

        A grid is a block's output before the last norm, patch tokens only, [B, D, H/p, W/p]; layers are 0 … depth - 1.
        seeds: [B], `draws.image_seeds`, of all that is dropped in training; none: torch's global state decides.
        lean: the last block computes only the tokens that heads read, if its grid is not asked for; equal to rounding.
        """
        for layer in layers:
            if not 0 <= layer < len(self.blocks):
                raise ValueError(f"there is no layer {layer}; the student has layers 0 to {len(self.blocks) - 1}")
        prefix, grid = self.config.num_prefix_tokens, self._grid(images)
        factors, of_block = self._draws(seeds)
        x = self.pos_drop(self._embed(images, grid), seeds, 0)
        grids: dict[int, Tensor] = {}
        last = self.config.depth - 1
        # What attention drops is drawn by the place in the whole matrix, which a lean block has not.
        lean = lean and self.config.global_pool == "token" and last not in layers and not self.config.attn_drop_rate
        for layer, block in enumerate(self.blocks):
            x = block(x, factors[layer], of_block[layer], prefix if lean and layer == last else None)
            if layer in layers:
                grids[layer] = x[:, prefix:].transpose(1, 2).unflatten(2, grid)  # [B, D, H/p, W/p]
        x = self.norm(x)
        pooled = x[:, 0] if self.config.global_pool == "token" else x[:, prefix:].mean(1)
        embedding = self.pre_logits(self.fc_norm(pooled))
        logits = self.head(self.head_drop(embedding, seeds, 1))
        token_logits = None
        if self.config.distilled:
            token = self.pre_logits(self.fc_norm(x[:, prefix - 1]))
            token_logits = self.head_dist(self.head_drop(token, seeds, 2))
        return Outputs(logits=logits, token_logits=token_logits, embedding=embedding, grids=grids)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are not to decay: tokens, positions, biases, norms and layer scales."""
        whole = {"pos_embed", "cls_token", "dist_token"}
        return {name for name, parameter in self.named_parameters() if parameter.ndim == 1 or name in whole}

    def _grid(self, images: Tensor) -> tuple[int, int]:
        if images.ndim != 4 or images.shape[1] != self.config.in_chans:
            raise ValueError(f"images are {list(images.shape)}; the student takes [B, {self.config.in_chans}, H, W]")
        (height, width), (patch_height, patch_width) = images.shape[-2:], self.config.patch_hw
        if height % patch_height or width % patch_width:
            raise ValueError(
                f"images of {height}×{width} do not divide into the student's patches of {patch_height}×{patch_width}; "
                f"resize them, for example to {self.config.img_hw[0]}×{self.config.img_hw[1]}"
            )
        return height // patch_height, width // patch_width

    def _embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Images [B, C, H, W] -> tokens [B, prefix + N, D] with their positions."""
        x = self.patch_embed(images)
        tokens = [token.expand(x.shape[0], -1, -1) for token in (self.cls_token, self.dist_token) if token is not None]
        x = torch.cat([*tokens, x], dim=1)
        pos_embed = resize_pos_embed(self.pos_embed, self.config.num_prefix_tokens, self.config.grid_size, grid)
        return x + pos_embed

    def _draws(self, seeds: Tensor | None) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
        """seeds [B] -> for each block the factors of its branches, [2, B, 1, 1], and the seeds of its dropouts, [B]."""
        config, nothing = self.config, [None] * self.config.depth
        if seeds is None or not self.training:
            return nothing, nothing
        factors = of_block = nothing
        if config.drop_path_rate:
            # Made on the device, where a copy from the host would have every step wait for the one before.
            rates = config.drop_path_rate * torch.arange(config.depth, device=seeds.device) / max(config.depth - 1, 1)
            factors = path_factors(at(seeds, 3), rates).unbind(0)
        if config.attn_drop_rate or config.proj_drop_rate:
            of_block = at(seeds, torch.arange(4, 4 + config.depth, device=seeds.device)[:, None]).unbind(0)
        return factors, of_block
