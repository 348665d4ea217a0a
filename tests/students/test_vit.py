"""The model: against timm, torchvision, and arithmetic by hand."""

import copy
import dataclasses
import pickle
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from students import ViT, ViTConfig, vit_base, vit_tiny
from students.vit import Attention, DropPath, PatchEmbed

SMALL = ViTConfig(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5)


def shaken(model: nn.Module) -> nn.Module:
    """Every parameter moved off its start, so that zero biases and unit norms hide nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


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


CHANGES = {
    "img_size": 64,
    "patch_size": 4,
    "in_chans": 1,
    "num_classes": 6,
    "global_pool": "avg",
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 4,
    "mlp_ratio": 2.0,
    "distilled": True,
    "pos_embed": "sincos",
    "qkv_bias": False,
    "qk_scale": 3.0,
    "drop_rate": 0.3,
    "pos_drop_rate": 0.3,
    "proj_drop_rate": 0.3,
    "attn_drop_rate": 0.3,
    "drop_path_rate": 0.6,
    "act_layer": "relu",
    "norm_layer": "rmsnorm",
    "init_values": 0.1,
    "representation_size": 9,
}
OTHER_PARAMETERS = {
    "img_size",
    "patch_size",
    "in_chans",
    "num_classes",
    "global_pool",
    "embed_dim",
    "depth",
    "mlp_ratio",
}
OTHER_PARAMETERS |= {"distilled", "qkv_bias", "norm_layer", "init_values", "representation_size"}
ELSEWHERE = {"class_token", "mean", "std"}  # class_token: below; mean and std: the input's, in test_sizes


def test_no_option_is_forgotten_here() -> None:
    assert {field.name for field in dataclasses.fields(ViTConfig)} == CHANGES.keys() | ELSEWHERE


@pytest.mark.parametrize("option", CHANGES)
def test_every_option_does_something(option: str) -> None:
    base, changed = SMALL.build(), SMALL.override(**{option: CHANGES[option]}).build()
    mine, theirs = ({n: t.shape for n, t in model.state_dict().items()} for model in (base, changed))
    if option in OTHER_PARAMETERS:
        assert mine != theirs
        return
    assert mine == theirs
    if option != "pos_embed":
        shaken(base)
        changed.load_state_dict(base.state_dict())
    images = torch.randn(4, 3, 32, 32)
    dropout = option.endswith("_rate")
    assert torch.equal(base.eval()(images), changed.eval()(images)) == dropout
    assert not torch.allclose(base.train()(images), changed.train()(images), atol=1e-4)


def test_without_class_token_the_average_is_of_all_tokens() -> None:
    model = SMALL.override(class_token=False, global_pool="avg").build().eval()
    shaken(model)
    images = torch.randn(2, 3, 32, 32)
    out = model.outputs(images, layers=[2])
    mean = out.grids[2].mean((2, 3))
    by_hand = F.linear(model.fc_norm(mean), model.head.weight, model.head.bias)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(out.logits, by_hand, atol=1e-6, rtol=0)
    assert model.cls_token is None
    assert model.pos_embed.shape[1] == 16


def test_drop_path_keeps_the_expectation() -> None:
    drop, x = DropPath(0.25), torch.ones(40_000, 1, 1)
    dropped = drop.train()(x)
    assert sorted(dropped.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)  # its deviation is 0.002
    assert dropped.mean().item() == pytest.approx(1, abs=0.015)
    assert torch.equal(drop.eval()(x), x)
    one_sample = drop.train()(torch.ones(50, 7, 3)).flatten(1)
    assert torch.equal(one_sample.amin(1), one_sample.amax(1))


def test_drop_path_rises_linearly() -> None:
    model = SMALL.override(drop_path_rate=0.3, depth=4).build()
    assert [block.drop_path.rate for block in model.blocks] == pytest.approx([0, 0.1, 0.2, 0.3])  # pyright: ignore[reportAttributeAccessIssue]


def test_dropped_path_leaves_the_sample_as_it_was() -> None:
    block = SMALL.override(drop_path_rate=0.9, depth=2).build().blocks[1].train()
    x = torch.randn(200, 4, 24)
    same = (block(x) == x).flatten(1).all(1).float().mean().item()
    assert same == pytest.approx(0.9**2, abs=0.09)  # both branches dropped; its deviation is 0.028


def test_dropout_keeps_the_expectation_of_the_head() -> None:
    model = SMALL.override(drop_rate=0.5).build()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        calm = model.eval()(images)
        mean = model.train()(images.expand(4000, -1, -1, -1)).mean(0, keepdim=True)
    torch.testing.assert_close(mean, calm, atol=0.01, rtol=0)


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


def test_regression_head_is_one_number_and_learns() -> None:
    model = SMALL.override(num_classes=1, depth=1).build()
    images = torch.randn(16, 3, 32, 32)
    target = images.mean((1, 2, 3))[:, None] * 50
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = F.mse_loss(model(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_no_classes_gives_timms_embedding() -> None:
    theirs = shaken(timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, num_classes=0, depth=2))
    mine = vit_tiny(img_size=32, num_classes=0, depth=2).eval()
    mine.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(mine(images), theirs(images), atol=1e-6, rtol=0)
    assert torch.equal(mine(images), mine.outputs(images).embedding)  # pyright: ignore[reportArgumentType]


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
