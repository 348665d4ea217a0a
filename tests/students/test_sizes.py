"""The configs: known sizes, arithmetic on shapes, and what no model can have."""

import dataclasses
import subprocess
import sys

import pytest
import torch

import students
from students import VIT_BASE, VIT_HUGE, VIT_LARGE, VIT_MEDIUM, VIT_SMALL, VIT_TINY, ViTConfig
from students.preprocess import Preprocess

SMALL = ViTConfig(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5)


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (VIT_TINY, 5.72),
        (VIT_SMALL, 22.05),
        (VIT_MEDIUM, 38.84),
        (VIT_BASE, 86.57),
        (VIT_LARGE, 304.33),
        (VIT_HUGE, 632.05),
    ],
)
def test_parameter_counts_are_the_papers(config: ViTConfig, millions: float) -> None:
    with torch.device("meta"):
        model = config.build()
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


def test_parameter_count_by_hand() -> None:
    # patches 3·8·8·24+24, token 24, positions 17·24; a block: two norms, qkv, proj, and an MLP of 96; norm; head
    block = 2 * 48 + (24 * 72 + 72) + (24 * 24 + 24) + (24 * 96 + 96) + (96 * 24 + 24)
    by_hand = (192 * 24 + 24) + 24 + 17 * 24 + 3 * block + 48 + (24 * 5 + 5)
    assert sum(p.numel() for p in SMALL.build().parameters()) == by_hand


def test_size_functions_build_their_config() -> None:
    names = ["vit_tiny", "vit_small", "vit_medium", "vit_base", "vit_large", "vit_huge"]
    with torch.device("meta"):
        built = {name: getattr(students, name)(num_classes=7, global_pool="avg") for name in names}
    for name, model in built.items():
        assert model.config == dataclasses.replace(getattr(students, name.upper()), num_classes=7, global_pool="avg")
        assert model.head.weight.shape == (7, model.config.embed_dim)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        SMALL.override(distilled=True),
        SMALL.override(representation_size=10),
        SMALL.override(img_size=(16, 48), patch_size=(4, 8), global_pool="avg", class_token=False),
    ],
)
def test_shapes_are_those_of_the_outputs(config: ViTConfig) -> None:
    shapes = config.shapes()
    out = config.build().outputs(torch.randn(2, 3, *config.img_hw), layers=range(config.depth))
    assert out.logits.shape == (2, shapes.num_classes)
    assert (out.token_logits is not None) == shapes.has_token
    assert out.embedding is not None
    assert out.embedding.shape == (2, shapes.embedding)
    assert {layer: tuple(grid.shape[1:]) for layer, grid in out.grids.items()} == shapes.grids


def test_layers_by_number_and_by_fraction() -> None:
    shapes = VIT_TINY.shapes()
    assert shapes.layers([0, 3, -1, 0.25, 0.5, 1.0, 0.01]) == (0, 3, 11, 2, 5, 11, 0)
    for layer in (12, -13, 0.0, 1.5):
        with pytest.raises(ValueError, match="layer"):
            shapes.layer(layer)


def test_statistics_default_to_imagenet() -> None:
    assert VIT_TINY.input_mean == (0.485, 0.456, 0.406)
    assert VIT_TINY.input_std == (0.229, 0.224, 0.225)
    grey = VIT_TINY.override(in_chans=1)
    assert (grey.input_mean, grey.input_std) == ((0.449,), (0.226,))
    assert VIT_TINY.override(in_chans=2, mean=(0.1, 0.2), std=(0.3, 0.4)).input_std == (0.3, 0.4)
    white = Preprocess(grey.img_hw, grey.input_mean, grey.input_std)(torch.ones(1, 1, 224, 224))
    assert white.unique().item() == pytest.approx((1 - 0.449) / 0.226)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"img_size": 30}, r"img_size 30×30 does not divide into patches of 8×8; .*such as 32×32"),
        ({"img_size": (32, 20)}, r"img_size 32×20 .* such as 32×16"),
        ({"num_heads": 5}, "embed_dim 24 does not divide into num_heads 5"),
        ({"class_token": False}, "global_pool 'token' reads a class token .* use global_pool 'avg'"),
        ({"embed_dim": 18, "pos_embed": "sincos"}, "divisible by 4, not 18"),
        ({"depth": 0}, "depth is 0; it must be 1 or more"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"mlp_ratio": 0.0}, "the MLP's width is 0"),
        ({"representation_size": 0}, "representation_size is 0"),
        ({"num_classes": -1}, "num_classes is -1"),
        ({"qk_scale": 0.0}, "qk_scale is 0.0"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate is 1.0; it must be 0 or more and below 1"),
        ({"attn_drop_rate": -0.1}, "attn_drop_rate is -0.1"),
        ({"mean": (0.5,)}, "in_chans is 3 but mean has 1 numbers"),
        ({"std": (0.2, 0.0, 0.2)}, "each must be above 0"),
        ({"global_pool": "max"}, "global_pool is 'max'; it must be one of 'token', 'avg'"),
        ({"norm_layer": "batchnorm"}, "norm_layer is 'batchnorm'; it must be one of 'layernorm', 'rmsnorm'"),
        ({"image_size": 32}, "no option 'image_size'; did you mean 'img_size'?"),
        ({"classes": 3}, "no option 'classes'; did you mean 'num_classes'?"),
        ({"xyz": 3}, "no option 'xyz'; it has img_size, patch_size"),
    ],
)
def test_what_no_model_can_have(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMALL.override(**wrong)


def test_unknown_number_of_classes_is_for_recipes() -> None:
    config = SMALL.override(num_classes=None)
    for use in (config.build, config.shapes):
        with pytest.raises(ValueError, match="num_classes is None, which a recipe fills in"):
            use()


def test_configs_import_no_torch() -> None:
    code = "import sys; from students import VIT_TINY; VIT_TINY.shapes(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_every_name_of_the_package_is_found() -> None:
    assert all(getattr(students, name).__name__ == name for name in students.__all__ if not name.isupper())
    with pytest.raises(AttributeError, match="no attribute 'vit_giant'"):
        students.vit_giant  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
