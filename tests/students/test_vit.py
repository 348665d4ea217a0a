"""The model: its layers by hand, its start, its copies, and the images that it takes."""

import copy
import dataclasses
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from students import ViT, ViTConfig, vit_tiny
from students.vit import Attention, PatchEmbed
from tests.students.small import SMALL, shaken


def test_patch_embedding_is_unfold_and_a_linear_layer() -> None:
    embed = PatchEmbed(SMALL.override(patch_size=(8, 4), in_chans=2))
    images = torch.randn(2, 2, 32, 32)
    patches = F.unfold(images, kernel_size=(8, 4), stride=(8, 4)).transpose(1, 2)  # [B, 4·8, 2·8·4]
    by_hand = F.linear(patches, embed.proj.weight.flatten(1), embed.proj.bias)
    torch.testing.assert_close(embed(images), by_hand, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [None, 0.7])
def test_attention_is_a_softmax_by_hand(scale: float | None) -> None:
    attention = Attention(SMALL.override(qk_scale=scale)).double().eval()
    x = torch.randn(2, 6, 24, dtype=torch.float64)
    heads: list[Tensor] = []
    for head in range(3):
        rows = [slice(part * 24 + head * 8, part * 24 + head * 8 + 8) for part in range(3)]
        q, k, v = (F.linear(x, attention.qkv.weight[r], attention.qkv.bias[r]) for r in rows)
        scores = q @ k.mT * (scale or 8**-0.5)
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        heads.append(weights @ v)
    by_hand = F.linear(torch.cat(heads, -1), attention.proj.weight, attention.proj.bias)
    torch.testing.assert_close(attention(x), by_hand, atol=1e-12, rtol=0)


@pytest.mark.parametrize("qk_scale", [None, 0.3])
def test_a_short_sequence_trains_as_through_torchs_attention(monkeypatch, qk_scale: float | None) -> None:
    # On a CPU up to 64 tokens go through whole matrices in training: the same answers and gradients.
    config = ViTConfig(img_size=32, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=7, qk_scale=qk_scale)
    config = dataclasses.replace(config, class_token=False, global_pool="avg")
    torch.manual_seed(0)
    student, images = config.build().double().train(), torch.randn(3, 3, 32, 32, dtype=torch.float64)  # 64 tokens

    def seen() -> list[Tensor]:
        logits = student(images)
        student.zero_grad()
        logits.square().sum().backward()
        return [logits.detach(), *(p.grad.clone() for p in student.parameters() if p.grad is not None)]

    whole = seen()
    monkeypatch.setattr("students.vit.SHORT", 63)
    fused = seen()
    assert len(whole) == len(fused) > 20
    assert any(not torch.equal(one, other) for one, other in zip(whole, fused, strict=True))  # two ways indeed
    for one, other in zip(whole, fused, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_no_weight_decay_names_exactly() -> None:
    model = SMALL.override(depth=1, distilled=True, init_values=0.1, num_classes=1).build()
    biases = ["patch_embed.proj", "blocks.0.norm1", "blocks.0.attn.qkv", "blocks.0.attn.proj", "blocks.0.norm2"]
    biases += ["blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "norm", "head", "head_dist"]
    weights = ["blocks.0.norm1.weight", "blocks.0.norm2.weight", "norm.weight"]
    gammas = ["blocks.0.ls1.gamma", "blocks.0.ls2.gamma"]
    tokens = ["pos_embed", "cls_token", "dist_token"]
    assert model.no_weight_decay() == {f"{name}.bias" for name in biases} | {*weights, *gammas, *tokens}
    assert "dist_token" not in SMALL.build().no_weight_decay()


def test_start_of_the_weights() -> None:
    model = vit_tiny(init_values=1e-4)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            assert parameter.unique().item() == pytest.approx(1e-4)
        elif name.startswith("patch_embed"):
            assert parameter.abs().max().item() <= 768**-0.5
        elif "norm" in name and name.endswith("weight"):
            assert parameter.unique().item() == 1
        elif name.endswith("bias"):
            assert parameter.abs().max().item() == 0
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.15 if name == "cls_token" else 0.03)
            assert parameter.mean().item() == pytest.approx(0, abs=0.005)


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_bf16_autocast_stays_near_float32(norm: str) -> None:
    model = SMALL.override(norm_layer=norm, distilled=True).build()
    shaken(model)
    images = torch.randn(2, 3, 48, 48)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(images)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), model(images), atol=0.03, rtol=0)
    half.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_copies_and_pickles_are_equal_and_apart() -> None:
    model = SMALL.build().eval()
    images = torch.randn(1, 3, 32, 32)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images), model(images))
        twin.load_state_dict(SMALL.override(img_size=64).build().state_dict())  # resized by the copy's own hook
        assert not torch.equal(twin(images), model(images))


def test_compiled_in_one_graph_and_exported_for_any_batch() -> None:
    model = SMALL.override(distilled=True).build().eval()
    images = torch.randn(3, 3, 32, 32)
    compiled = torch.compile(model.outputs, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images, layers=(1,)).grids[1], model.outputs(images, layers=(1,)).grids[1])
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    images = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(exported(images), model(images), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 32, 32), r"images are \[1, 1, 32, 32\]; the student takes \[B, 3, H, W\]"),
        ((3, 32, 32), r"images are \[3, 32, 32\]"),
        ((1, 3, 32, 30), "images of 32×30 do not divide into the student's patches of 8×8; .* 32×32"),
    ],
)
def test_images_that_do_not_fit(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMALL.build()(torch.zeros(shape))


def test_layer_that_is_not_there() -> None:
    model: ViT = SMALL.build()
    with pytest.raises(ValueError, match="no layer 3; the student has layers 0 to 2"):
        model.outputs(torch.zeros(1, 3, 32, 32), layers=[3])
