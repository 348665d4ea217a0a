"""Where a model looks: attention rollout for Vision Transformers, gradients for the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from students import ViT
from students.vit import Attention
from teachers.frozen import FrozenTeacher

ROLLOUT, GRAD_CAM, GRADIENT = "attention rollout", "Grad-CAM", "input gradient"


def look(module: nn.Module, x: Tensor, label: int) -> tuple[Tensor, str]:
    """A map [h, w] in 0..1 of where the model looks in one normalised image [1, C, H, W], and the name of the method.

    Attention rollout (arXiv:2005.00928) for plain Vision Transformers, which asks no class; for models whose features
    are a grid Grad-CAM (arXiv:1610.02391) of the class `label`; for the rest the size of the gradient at the pixels.
    The module is in eval mode; its parameters get no gradient.
    """
    vit = plain_vit(module)
    if vit is not None and (seen := rollout(vit, x)) is not None:
        return _scaled(seen), ROLLOUT
    if (seen := grad_cam(module, x, label)) is not None:
        return _scaled(seen), GRAD_CAM
    return _scaled(input_gradient(module, x, label)), GRADIENT


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


def grad_cam(module: nn.Module, x: Tensor, label: int) -> Tensor | None:
    """Grad-CAM [h, w] of a class on the grid that the model's head pools; None where its features are no grid."""
    model: Any = module.model if isinstance(module, FrozenTeacher) else module
    if not hasattr(model, "forward_features"):
        return None
    with torch.no_grad():
        features = model.forward_features(x)
    if not isinstance(features, Tensor) or features.ndim != 4:
        return None
    features = features.detach().requires_grad_()
    with torch.enable_grad():
        score = _logits_of(module, model, features)[0, label]
        (gradient,) = torch.autograd.grad(score, features)
    channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
    over = (0, 1) if channels_last else (1, 2)
    weights = gradient[0].mean(over, keepdim=True)
    return (weights * features[0]).sum(-1 if channels_last else 0).relu().detach()


def input_gradient(module: nn.Module, x: Tensor, label: int) -> Tensor:
    """The size of the gradient of a class's logit at each pixel, over the channels, softened: [H, W]."""
    model: Any = module.model if isinstance(module, FrozenTeacher) else module
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        frozen = isinstance(module, FrozenTeacher)
        logits = _logits_of(module, model, model.forward_features(x)) if frozen else model(x)
        (gradient,) = torch.autograd.grad(logits[0, label], x)
    soft = max(round(min(x.shape[-2:]) / 28), 1)
    size = 2 * soft + 1
    return F.avg_pool2d(gradient.abs().sum(1, keepdim=True), size, stride=1, padding=soft)[0, 0].detach()


def _logits_of(module: nn.Module, model: Any, features: Any) -> Tensor:
    """Logits [B, K] of a model's features, by the head and the class map of a frozen teacher."""
    if not isinstance(module, FrozenTeacher):
        return model.forward_head(features)
    if module.head is None:
        logits = model.forward_head(features)
    else:
        logits = module.head(model.forward_head(features, pre_logits=True))
    return logits if module.class_map is None else module.class_map(logits)


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
