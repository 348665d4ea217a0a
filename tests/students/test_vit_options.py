"""Every option of the model does something, and what it says."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from students import ViTConfig
from tests.students.small import SMALL, shaken

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
