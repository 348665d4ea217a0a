"""Where a model looks: attention rollout for Vision Transformers, gradients for the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from students import ViT
from students.vit import Attention

ROLLOUT, GRAD_CAM, GRADIENT = "attention rollout", "Grad-CAM", "input gradient"


Forward = Callable[[Tensor], Tensor]
"""Normalised images [B, C, H, W] -> logits [B, K], through which gradients flow."""


def look(module: nn.Module, forward: Forward, x: Tensor, label: int) -> tuple[Tensor, str]:
    """A map [h, w] in 0..1 of where a model looks in one normalised image [1, C, H, W], and the name of the method.

    Attention rollout (arXiv:2005.00928) for plain Vision Transformers, which asks no class; for models whose features
    are a grid Grad-CAM (arXiv:1610.02391) of logit `label`; for the rest the size of the gradient at the pixels.
    module: in eval mode; forward: what it answers, maybe by another head. Its parameters get no gradient.
    """
    vit = plain_vit(module)
    if vit is not None and (seen := rollout(vit, x)) is not None:
        return _scaled(seen), ROLLOUT
    if (seen := grad_cam(module, forward, x, label)) is not None:
        return _scaled(seen), GRAD_CAM
    return _scaled(input_gradient(forward, x, label)), GRADIENT


def plain_vit(module: nn.Module) -> Any:
    """The student or timm Vision Transformer inside, whose blocks all attend over all tokens; None if there is none."""
    for part in module.modules():
        blocks: Any = getattr(part, "blocks", None)
        if isinstance(part, ViT):
            return part
        patches = getattr(getattr(part, "patch_embed", None), "proj", None)
        if isinstance(blocks, nn.Sequential) and isinstance(patches, nn.Conv2d) and hasattr(part, "num_prefix_tokens"):
            plain = all(hasattr(getattr(block, "attn", None), "attn_drop") for block in blocks)
            return part if plain else None
    return None


@torch.no_grad()
def rollout(vit: Any, x: Tensor) -> Tensor | None:
    """Attention rollout [h, w] of one image [1, C, H, W]; None where blocks do not attend over all tokens.

    Every block mixes tokens by A = (mean attention of its heads + I) / 2; the product over the blocks says how much of
    each patch is in the class token (and the distillation token, mean of both), or in the mean token without one.
    """
    mixed: list[Tensor] = []
    with _attention_of(vit, mixed):
        vit(x)
    prefix = vit.config.num_prefix_tokens if isinstance(vit, ViT) else int(vit.num_prefix_tokens)
    rows, columns = _grid(vit, x)
    tokens = prefix + rows * columns
    if len(mixed) != len(vit.blocks) or any(attention.shape != (tokens, tokens) for attention in mixed):
        return None
    reach = torch.eye(tokens, device=x.device)
    for attention in mixed:
        reach = (attention.float() + torch.eye(tokens, device=x.device)) / 2 @ reach  # its rows still sum to 1
    asking = reach[: _answering(vit)] if _answering(vit) else reach[prefix:]
    return asking.mean(0)[prefix:].unflatten(0, (rows, columns))


def grad_cam(module: Any, forward: Forward, x: Tensor, label: int) -> Tensor | None:
    """Grad-CAM [h, w] of a logit on the grid that the model's head reads; None where its features are no grid."""
    if not hasattr(module, "forward_features"):
        return None
    kept: list[Tensor] = []
    with torch.enable_grad(), _features_of(module, kept):
        logits = forward(x.detach().clone().requires_grad_())
    if not kept or not isinstance(kept[0], Tensor) or kept[0].ndim != 4:
        return None
    (gradient,) = torch.autograd.grad(logits[0, label], kept[0])
    features, gradient = kept[0][0].detach().float(), gradient[0].float()
    if getattr(module, "output_fmt", "NCHW") == "NHWC":
        features, gradient = features.permute(2, 0, 1), gradient.permute(2, 0, 1)
    return (gradient.mean((1, 2), keepdim=True) * features).sum(0).relu()


def input_gradient(forward: Forward, x: Tensor, label: int) -> Tensor:
    """The size of the gradient of a logit at each pixel, over the channels, softened: [H, W]."""
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(forward(x)[0, label], x)
    soft = max(round(min(x.shape[-2:]) / 28), 1)
    return F.avg_pool2d(gradient.abs().sum(1, keepdim=True), 2 * soft + 1, stride=1, padding=soft)[0, 0]


@contextmanager
def _features_of(module: Any, into: list[Tensor]) -> Iterator[None]:
    """While it runs, what `forward_features` gives is appended."""
    own = module.forward_features

    def forward_features(x: Tensor) -> Tensor:
        into.append(own(x))
        return into[-1]

    module.forward_features = forward_features  # of this object, in front of its class's
    try:
        yield
    finally:
        del module.forward_features


@contextmanager
def _attention_of(vit: Any, into: list[Tensor]) -> Iterator[None]:
    """While it runs, each block's attention [N, N] of the first image, mean over heads, is appended."""
    hooks, fused = [], []
    for block in vit.blocks:
        attn = block.attn
        if isinstance(attn, Attention):
            hooks.append(attn.qkv.register_forward_hook(_from_qkv(attn, into)))
            continue
        if hasattr(attn, "fused_attn"):  # timm's fused kernel has no attention to look at
            fused.append((attn, attn.fused_attn))
            attn.fused_attn = False
        hooks.append(attn.attn_drop.register_forward_hook(lambda _m, _i, output: into.append(output[0].mean(0))))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for attn, value in fused:
            attn.fused_attn = value


def _from_qkv(attn: Attention, into: list[Tensor]) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        q, k, _ = output.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, H, N, D/H]
        scale = q.shape[-1] ** -0.5 if attn.scale is None else attn.scale
        into.append((q[0] @ k[0].mT * scale).softmax(-1).mean(0))

    return hook


def _grid(vit: Any, x: Tensor) -> tuple[int, int]:
    rows, columns = vit.patch_embed.proj.weight.shape[-2:]
    return x.shape[-2] // rows, x.shape[-1] // columns


def _answering(vit: Any) -> int:
    """How many of the first tokens the head reads; 0: it reads the mean of the patches."""
    if isinstance(vit, ViT):
        return 0 if vit.config.global_pool == "avg" else 1 + vit.config.distilled
    if getattr(vit, "global_pool", "token") != "token":
        return 0
    return 2 if hasattr(vit, "head_dist") else 1


def _scaled(seen: Tensor) -> Tensor:
    seen = seen.float().cpu()
    low, high = seen.min(), seen.max()
    return (seen - low) / (high - low) if high > low else torch.zeros_like(seen)
