"""Fold a BatchNorm into the convolution in front of it, in a copy of a model that no longer trains."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

# Exactly these: a subclass may do more with its weight (standardise it, say), and what it does is not linear then.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


def fold(model: nn.Module, run: Callable[[Any], object]) -> tuple[nn.Module, int]:
    """A copy of a model in eval mode with its BatchNorm folded, and how many were. The model itself is not changed.

    run: makes one pass of the model that it is given and returns what comes out. A BatchNorm is folded where its input
    is the output of a convolution, nothing else reads that, it does not come out, and both are called once.
    """
    pairs = _pairs(model, run)
    folded = copy.deepcopy(model)
    for conv_name, norm_name in pairs:
        conv: Any = folded.get_submodule(conv_name)
        norm: Any = folded.get_submodule(norm_name)
        folded.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm).requires_grad_(False))
        # timm's norm drops and activates as well.
        rest: Any = [norm.drop, norm.act] if hasattr(norm, "act") else []
        folded.set_submodule(norm_name, nn.Sequential(*rest).eval())
    return folded, len(pairs)


class _Reads(TorchDispatchMode):
    """Counts how many operations read each tensor, by `id`."""

    def __init__(self) -> None:
        super().__init__()
        self.by_id: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.by_id.update({id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)})
        return func(*args, **(kwargs or {}))


def _pairs(model: nn.Module, run: Callable[[Any], object]) -> list[tuple[str, str]]:
    """Names of each convolution and the BatchNorm that can be folded into it."""
    reads = _Reads()
    made: dict[int, tuple[str, Tensor]] = {}  # by id; the tensors are held, for an id is free again after its tensor
    fed: dict[str, int] = {}  # of each BatchNorm behind a convolution, which tensor
    calls: Counter[str] = Counter()

    def after_convolution(name: str, output: Tensor) -> None:
        calls[name] += 1
        made[id(output)] = name, output
        reads.by_id[id(output)] = 0  # those of an earlier tensor with this id

    def before_norm(name: str, inputs: tuple[Any, ...]) -> None:
        calls[name] += 1
        if inputs and id(inputs[0]) in made:
            fed[name] = id(inputs[0])

    hooks: list[RemovableHandle] = []
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            continue  # someone looks at what goes through, or changes it
        if type(module) in _CONVOLUTIONS:
            hooks.append(module.register_forward_hook(lambda _, inputs, output, n=name: after_convolution(n, output)))
        elif type(module) in _NORMS and module.running_mean is not None:
            hooks.append(module.register_forward_pre_hook(lambda _, inputs, n=name: before_norm(n, inputs)))
    try:
        with torch.no_grad(), reads:
            reads.by_id.update({id(answer) for answer in tree_leaves(run(model))})  # who asked reads what it gets
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (made[tensor][0], norm)
        for norm, tensor in fed.items()
        if reads.by_id[tensor] == 1 and calls[norm] == calls[made[tensor][0]] == 1
    ]
