"""Maps and pictures against arithmetic by hand, and ours against timm's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from distill.compare.page import Eye, draw
from distill.compare.page.inside import similarity
from distill.compare.page.pictures import shown
from distill.compare.page.pixels import mosaic
from distill.compare.page.saliency import GRAD_CAM, GRADIENT, ROLLOUT, grad_cam, input_gradient, look, rollout
from students import ViTConfig

SMALL: Any = {"img_size": 28, "patch_size": 7, "in_chans": 1, "embed_dim": 16, "depth": 3, "num_heads": 2}


def build(**more: Any) -> Any:
    torch.manual_seed(1)
    model: Any = ViTConfig(**SMALL, num_classes=5, **more).build().eval()
    for block in model.blocks:
        nn.init.normal_(block.attn.qkv.weight, std=0.6)  # or every patch would be attended alike
    return model


def test_rollout_of_even_attention_by_hand():
    model = build()
    for block in model.blocks:
        nn.init.zeros_(block.attn.qkv.weight)
    seen = rollout(model, torch.randn(1, 1, 28, 28))
    # Each block keeps half and spreads half over 17 tokens: after 3, a patch has (1 - 1/8) / 17 of the class token.
    torch.testing.assert_close(seen, torch.full((4, 4), (1 - 1 / 8) / 17))


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_rollout_of_ours_equals_that_of_timm(pool):
    ours = build(global_pool=pool)
    theirs: Any = timm.create_model("vit_tiny_patch16_224", **SMALL, num_classes=5, global_pool=pool).eval()
    theirs.load_state_dict(ours.state_dict())
    fused = [block.attn.fused_attn for block in theirs.blocks]
    x = torch.randn(1, 1, 28, 28)
    seen = rollout(ours, x)
    assert seen is not None
    torch.testing.assert_close(seen, rollout(theirs, x))
    assert seen.std() > 1e-3
    assert [block.attn.fused_attn for block in theirs.blocks] == fused  # it is left as it was
    assert not any(module._forward_hooks for module in (*ours.modules(), *theirs.modules()))


def test_rollout_of_two_answering_tokens_is_their_mean():
    model = build(distilled=True)
    x = torch.randn(1, 1, 28, 28)
    mixed = []
    with torch.no_grad():
        tokens = model._embed(x, (4, 4))
        for block in model.blocks:
            q, k, _ = block.attn.qkv(block.norm1(tokens)).view(1, 18, 3, 2, 8).permute(2, 0, 3, 1, 4)
            mixed.append(((q @ k.mT / 8**0.5).softmax(-1).mean(1)[0] + torch.eye(18)) / 2)
            tokens = block(tokens)
    reach = mixed[2] @ mixed[1] @ mixed[0]
    torch.testing.assert_close(rollout(model, x), reach[:2].mean(0)[2:].view(4, 4))


class Pooled(nn.Module):
    """Features are the image's channels, the head a mean and fixed weights."""

    def __init__(self, weights: torch.Tensor, output_fmt: str) -> None:
        super().__init__()
        self.weights, self.output_fmt = weights, output_fmt

    def forward_features(self, x):
        return 2 * (x if self.output_fmt == "NCHW" else x.permute(0, 2, 3, 1))

    def forward(self, x):
        over = (2, 3) if self.output_fmt == "NCHW" else (1, 2)
        return self.forward_features(x).mean(over) @ self.weights.T


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_grad_cam_by_hand(layout):
    weights = torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    x = torch.randn(1, 2, 3, 4)
    model = Pooled(weights, layout)
    expected = (weights[1].view(2, 1, 1) / 12 * 2 * x[0]).sum(0).relu()
    torch.testing.assert_close(grad_cam(model, model, x, 1), expected)
    assert "forward_features" not in vars(model)
    assert look(model, model, x, 1)[1] == GRAD_CAM


def test_input_gradient_by_hand():
    x = torch.randn(1, 2, 8, 8)
    weights = torch.zeros(3, 2, 8, 8)
    weights[1, 0, 4, 4] = -9.0
    seen = input_gradient(lambda x: torch.einsum("bchw,kchw->bk", x, weights), x, 1)
    expected = torch.zeros(8, 8)
    expected[3:6, 3:6] = 1.0  # 9 spread over 3 × 3 pixels
    torch.testing.assert_close(seen, expected)


def test_methods_follow_the_model():
    x = torch.randn(1, 1, 28, 28)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(784, 5))
    wrapped = nn.Sequential(build())
    assert look(plain, plain, x, 0)[1] == GRADIENT
    assert look(wrapped, wrapped, x, 0)[1] == ROLLOUT
    heat = look(wrapped, wrapped, x, 0)[0]
    assert (heat.min(), heat.max()) == (0, 1)


def test_similarity_of_one_hot_positions():
    model = build()
    with torch.no_grad():
        model.pos_embed[0, 1:] = 3 * torch.eye(16)
    alike = similarity(model)
    assert alike is not None
    np.testing.assert_allclose(alike.reshape(16, 16), np.eye(16), atol=1e-7)


def test_a_mosaic_by_hand():
    tiles = np.arange(3)[:, None, None, None] * np.full((3, 2, 2, 3), 100)
    image = np.asarray(mosaic(tiles, 2, zoom=2, gap=1))
    assert image.shape == (9, 9, 4)
    assert image[0, 0].tolist() == [0, 0, 0, 255]
    assert image[0, 5].tolist() == [100, 100, 100, 255]
    assert image[5, 0].tolist() == [200, 200, 200, 255]
    assert image[0, 4, 3] == image[5, 5, 3] == 0  # the gap, and the tile that is not there


def test_pictures_are_of_the_decisions(report, squares, eyes, pictures):
    assert set(pictures.photos) == {7 * n for n in range(12)}
    assert set(pictures.maps) == {(key, 7 * n) for key in ("big", "small", "small-alone") for n in range(12)}
    assert pictures.methods == {"big": GRAD_CAM, "small": ROLLOUT, "small-alone": ROLLOUT}
    assert set(pictures.inside) == {"small", "small-alone"}
    assert pictures.inside["small"].grid == (4, 4)


def test_a_subset_of_classes_is_asked_by_its_logits(report, squares, eyes):
    asked = []
    weights = torch.randn(40, 784)

    def forward(x):
        logits = x.flatten(1) @ weights.T
        logits.register_hook(lambda gradient: asked.append(int(gradient[0].argmax())))
        return logits

    eye = Eye(module=nn.Linear(1, 1), preprocess=eyes["big"].preprocess, forward=forward, logit=range(30, 40))
    draw(report, squares, {"big": eye})
    assert set(asked) == {30}  # the reference decides class 0 on all twelve


def test_a_model_through_which_no_gradient_flows_has_no_map(report, squares, eyes):
    eye = Eye(module=nn.Linear(1, 1), preprocess=eyes["big"].preprocess, forward=lambda x: x.flatten(1).detach())
    found = draw(report, squares, {"big": eye})
    assert found.maps == {}
    assert len(found.photos) == 12


def test_many_models_share_the_cards(report):
    models = [report["models"][0], *[report["models"][1] | {"key": f"m{n}"} for n in range(9)]]
    assert {len(cards) for cards in shown(report | {"models": models}).values()} == {4}


def test_an_image_of_any_mode_is_drawn(report, eyes):
    class Palette:
        def __len__(self):
            return 100

        def __getitem__(self, index):
            return Image.new("P", (40, 10), index), 0

    found = draw(report, Palette(), {})
    assert all(uri.startswith("data:image/webp;base64,") for uri in found.photos.values())
