"""The last block computes only the tokens that heads read, and nothing that is learnt changes by it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from students import ViTConfig, vit_tiny
from students.draws import image_seeds

SMALL = ViTConfig(img_size=32, patch_size=8, num_classes=5, embed_dim=24, depth=3, num_heads=3)
WORDS = [
    {},
    {"distilled": True, "drop_path_rate": 0.5, "proj_drop_rate": 0.3},
    {"qkv_bias": False, "init_values": 0.1, "norm_layer": "rmsnorm"},
    {"patch_size": 2, "distilled": True},  # 258 tokens go through torch's attention
    {"attn_drop_rate": 0.4, "representation_size": 7},
    {"global_pool": "avg", "class_token": False},
]


def learnt(config: ViTConfig, *, lean: bool, layers: tuple[int, ...] = ()) -> tuple[list[Tensor], dict[str, Tensor]]:
    """All outputs of a training step on four images, and the gradient of each parameter."""
    torch.manual_seed(0)
    student = config.build().double().train()
    images, seeds = torch.randn(4, 3, 32, 32, dtype=torch.float64), image_seeds(7, 0, 4)
    out = student.outputs(images, layers, seeds, lean=lean)
    said = [t for t in (out.logits, out.token_logits, out.embedding, *out.grids.values()) if t is not None]
    sum((t * torch.randn_like(t)).sum() for t in said).backward()  # pyright: ignore[reportAttributeAccessIssue]
    return said, {name: p.grad for name, p in student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("words", WORDS, ids=lambda words: "-".join(words) or "plain")
@pytest.mark.parametrize("layers", [(), (0,), (1, 2)])
def test_outputs_and_gradients_are_those_of_whole_blocks(words: dict, layers: tuple[int, ...]) -> None:
    config = SMALL.override(**words)
    plain, plain_gradients = learnt(config, lean=False, layers=layers)
    lean, gradients = learnt(config, lean=True, layers=layers)
    assert gradients.keys() == plain_gradients.keys() == dict(config.build().named_parameters()).keys()
    for one, other in zip(lean, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, plain_gradients[name], atol=1e-10, rtol=0)


def operations(*, lean: bool, layers: tuple[int, ...] = ()) -> int:
    student = vit_tiny(img_size=96, num_classes=10)
    with torch.device("meta"):
        student, images = student.to("meta").train(), torch.empty(2, 3, 96, 96)
    with FlopCounterMode(display=False) as counter:
        student.outputs(images, layers, lean=lean)
    return counter.get_total_flops()


def test_the_last_block_projects_keys_and_values_alone() -> None:
    tokens, dim, images = 37, 192, 2
    saved = 2 * images * (tokens - 1) * dim * dim * 10  # queries, output and MLP: 1 + 1 + 8 of 12 parts of a block
    attention = 2 * 2 * images * (tokens - 1) * tokens * dim
    assert operations(lean=False) - operations(lean=True) == saved + attention
    assert operations(lean=False) == operations(lean=True, layers=(11,))
