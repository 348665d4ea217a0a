"""Position embeddings: fixed values by their formula, and other grids as timm brings them there."""

import math

import pytest
import torch
from timm.layers import resample_abs_pos_embed  # pyright: ignore[reportPrivateImportUsage]

from students import ViTConfig
from students.positions import resize_pos_embed, sincos

SMALL = ViTConfig(img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=3, num_classes=5)


def test_sincos_by_its_formula() -> None:
    rows, columns, dim = 3, 5, 16
    table = sincos((rows, columns), dim)[0]
    for row in range(rows):
        for column in range(columns):
            for k in range(4):
                frequency = 10000 ** (-k / 4)
                angles = (column * frequency, row * frequency)
                by_hand = [math.sin(angles[0]), math.cos(angles[0]), math.sin(angles[1]), math.cos(angles[1])]
                assert table[row * columns + column, k::4].tolist() == pytest.approx(by_hand, abs=1e-6)


def test_fixed_positions_are_not_learnt_and_leave_tokens_alone() -> None:
    model = SMALL.override(pos_embed="sincos", distilled=True).build()
    assert not model.pos_embed.requires_grad
    assert model.pos_embed[0, :2].abs().max() == 0
    assert torch.equal(model.pos_embed[:, 2:], sincos((4, 4), 24))
    assert "pos_embed" in model.state_dict()


@pytest.mark.parametrize(("source", "target"), [((4, 4), (7, 7)), ((4, 4), (3, 6)), ((2, 6), (4, 4)), ((5, 5), (2, 2))])
@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_resizing_equals_timms(source: tuple[int, int], target: tuple[int, int], prefix: int) -> None:
    table = torch.randn(1, prefix + source[0] * source[1], 8)
    expected = resample_abs_pos_embed(table, list(target), list(source), num_prefix_tokens=prefix)
    torch.testing.assert_close(resize_pos_embed(table, prefix, source, target), expected, atol=1e-6, rtol=0)


def test_resizing_a_constant_or_to_the_same_grid_changes_nothing() -> None:
    constant = torch.full((1, 17, 3), 2.5)
    torch.testing.assert_close(resize_pos_embed(constant, 1, (4, 4), (9, 5)), torch.full((1, 46, 3), 2.5))
    table = torch.randn(1, 17, 3)
    assert resize_pos_embed(table, 1, (4, 4), (4, 4)) is table


@pytest.mark.parametrize("size", [(64, 64), (24, 40)])
def test_other_images_meet_the_positions_of_their_size(size: tuple[int, int]) -> None:
    model = SMALL.build().eval()
    images = torch.randn(2, 3, *size)
    twin = SMALL.override(img_size=size).build().eval()
    twin.load_state_dict(model.state_dict())
    expected = resample_abs_pos_embed(model.pos_embed, [size[0] // 8, size[1] // 8], [4, 4])
    torch.testing.assert_close(twin.pos_embed, expected, atol=1e-6, rtol=0)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(model(images), twin(images), atol=1e-6, rtol=0)


def test_weights_inside_another_module_are_resized_too() -> None:
    inner, outer = SMALL.build(), torch.nn.ModuleDict({"student": SMALL.override(img_size=64).build()})
    outer.load_state_dict({f"student.{name}": tensor for name, tensor in inner.state_dict().items()})
    expected = resample_abs_pos_embed(inner.pos_embed, [8, 8], [4, 4])
    torch.testing.assert_close(outer["student"].pos_embed, expected, atol=1e-6, rtol=0)  # pyright: ignore[reportArgumentType]
    assert inner.state_dict()["pos_embed"].shape == (1, 17, 24)


def test_weights_that_cannot_be_placed() -> None:
    plain = SMALL.build()
    with pytest.raises(ValueError, match=r"2 token\(s\) before the patches but the student has 1"):
        plain.load_state_dict(SMALL.override(distilled=True).build().state_dict())
    with pytest.raises(ValueError, match=r"8 positions, which is no square grid; .*students\.load"):
        plain.load_state_dict(SMALL.override(img_size=(16, 32)).build().state_dict())
