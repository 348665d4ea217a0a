"""The model has the weights and the answers of timm's and of torchvision's."""

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from students import vit_base, vit_tiny
from tests.students.small import SMALL, shaken


def from_torchvision(name: str) -> str:
    for theirs, mine in [
        ("class_token", "cls_token"),
        ("conv_proj", "patch_embed.proj"),
        ("encoder.pos_embedding", "pos_embed"),
        ("encoder.layers.encoder_layer_", "blocks."),
        ("encoder.ln", "norm"),
        ("ln_", "norm"),
        ("self_attention.in_proj_", "attn.qkv."),
        ("self_attention.out_proj", "attn.proj"),
        ("mlp.0", "mlp.fc1"),
        ("mlp.3", "mlp.fc2"),
        ("heads.pre_logits", "pre_logits.fc"),
        ("heads.head", "head"),
    ]:
        name = name.replace(theirs, mine)
    return name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}),
        ("vit_tiny_patch16_224", {"img_size": (64, 32), "in_chans": 1, "num_classes": 10, "init_values": 0.1}),
        ("deit_tiny_distilled_patch16_224", {}),
    ],
)
def test_student_and_timm_hold_the_same_weights(name: str, words: dict) -> None:
    theirs = shaken(timm.create_model(name, pretrained=False, **words))
    mine = vit_tiny(distilled="distilled" in name, **words).eval()
    mine.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(1, mine.config.in_chans, *mine.config.img_hw)
    with torch.no_grad():
        torch.testing.assert_close(mine(images), theirs(images), atol=1e-5, rtol=0)
        shaken(mine)
        theirs.load_state_dict(mine.state_dict(), strict=True)
        torch.testing.assert_close(mine(images), theirs(images), atol=1e-5, rtol=0)


def test_heads_of_a_distilled_student_are_timms_apart() -> None:
    theirs = shaken(timm.create_model("deit_tiny_distilled_patch16_224", pretrained=False, img_size=32, num_classes=7))
    mine = vit_tiny(distilled=True, img_size=32, num_classes=7)
    mine.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)
    theirs.train().set_distilled_training(True)  # pyright: ignore[reportCallIssue]
    head, head_dist = theirs(images)
    out = mine.train().outputs(images)
    torch.testing.assert_close(out.logits, head, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.token_logits, head_dist, atol=1e-5, rtol=0)
    torch.testing.assert_close(mine(images), (head + head_dist) / 2, atol=1e-5, rtol=0)


def test_vit_b_16_of_torchvision_gives_the_same_logits() -> None:
    theirs = torchvision.models.vit_b_16(weights=None).eval()
    nn.init.normal_(theirs.get_parameter("heads.head.weight"), std=0.02)  # its zeros would hide every difference
    mine = vit_base().eval()
    mine.load_state_dict({from_torchvision(name): tensor for name, tensor in theirs.state_dict().items()})
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(mine(images), theirs(images), atol=1e-5, rtol=0)


def test_representation_layer_is_torchvisions() -> None:
    theirs = torchvision.models.VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=3,
        num_heads=3,
        hidden_dim=24,
        mlp_dim=96,
        num_classes=5,
        representation_size=11,
    )
    shaken(theirs)
    mine = SMALL.override(representation_size=11).build().eval()
    mine.load_state_dict({from_torchvision(name): tensor for name, tensor in theirs.state_dict().items()})
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(mine(images), theirs(images), atol=1e-6, rtol=0)


@pytest.mark.parametrize("words", [{}, {"global_pool": "avg", "class_token": False}, {"img_size": (32, 64)}])
def test_grids_equal_timms_intermediates(words: dict) -> None:
    theirs = shaken(timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=4, **{"img_size": 32, **words}))
    mine = vit_tiny(depth=4, **{"img_size": 32, **words}).eval()
    mine.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, *mine.config.img_hw)
    grids = mine.outputs(images, layers=(3, 1)).grids
    assert sorted(grids) == [1, 3]
    expected = theirs.forward_intermediates(images, indices=[1, 3], norm=False, intermediates_only=True)  # pyright: ignore[reportCallIssue]
    for layer, grid in zip((1, 3), expected, strict=True):
        torch.testing.assert_close(grids[layer], grid, atol=1e-6, rtol=0)


@pytest.mark.parametrize("distilled", [False, True])
def test_dropouts_fall_where_timms_do(distilled: bool) -> None:
    rates: dict[str, Any] = {"pos_drop_rate": 0.2, "proj_drop_rate": 0.3, "attn_drop_rate": 0.4}
    rates |= {} if distilled else {"drop_rate": 0.1}  # timm 1.0.20 has no dropout before DeiT's heads
    name = "deit_tiny_distilled_patch16_224" if distilled else "vit_tiny_patch16_224"
    theirs = timm.create_model(name, pretrained=False, img_size=32, depth=3, **rates)
    mine = vit_tiny(img_size=32, depth=3, distilled=distilled, **rates)
    mine.load_state_dict(theirs.state_dict())
    images = torch.randn(4, 3, 32, 32)
    torch.manual_seed(1)
    expected = theirs.train()(images)
    torch.manual_seed(1)
    torch.testing.assert_close(mine.train()(images), expected, atol=1e-5, rtol=0)


def test_no_classes_gives_timms_embedding() -> None:
    theirs = shaken(timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, num_classes=0, depth=2))
    mine = vit_tiny(img_size=32, num_classes=0, depth=2).eval()
    mine.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(mine(images), theirs(images), atol=1e-6, rtol=0)
    assert torch.equal(mine(images), mine.outputs(images).embedding)  # pyright: ignore[reportArgumentType]
