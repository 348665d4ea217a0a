"""Students on disk: what load gives back, and what timm makes of the same folder."""

import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from students import ViT, ViTConfig, load, save

SMALL = ViTConfig(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5)


def images_for(model: ViT) -> torch.Tensor:
    return torch.randn(2, model.config.in_chans, *model.config.img_hw)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"distilled": True},
        {"global_pool": "avg"},
        {"global_pool": "avg", "class_token": False, "qkv_bias": False},
        {"init_values": 0.1, "pos_embed": "sincos"},
        {"img_size": (16, 32), "patch_size": (4, 8)},
        {"in_chans": 1, "mean": (0.2,), "std": (0.3,)},
        {"in_chans": 2, "num_classes": 1},
        {"num_classes": 0},
        {"num_classes": 0, "distilled": True},
        {"norm_layer": "rmsnorm", "act_layer": "gelu_tanh", "mlp_ratio": 2.0},
    ],
    ids=str,
)
def test_timm_and_load_give_the_students_outputs(tmp_path: Path, words: dict[str, Any]) -> None:
    model = SMALL.override(**words).build().eval()
    folder = save(model, tmp_path / "student")
    images = images_for(model)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert difference(theirs(images), model(images)) <= 1e-6
    back = load(folder)
    assert back.config == model.config
    assert not back.training
    assert difference(back(images), model(images)) == 0.0
    assert theirs.pretrained_cfg["mean"] == list(model.config.input_mean)  # pyright: ignore[reportIndexIssue, reportArgumentType]


@pytest.mark.parametrize(
    "words",
    [
        {"qk_scale": 0.3},
        {"representation_size": 9},
        {"distilled": True, "global_pool": "avg"},
        {"distilled": True, "global_pool": "avg", "class_token": False},
    ],
    ids=str,
)
def test_what_timm_has_no_words_for_is_named_so(tmp_path: Path, words: dict[str, Any]) -> None:
    model = SMALL.override(**words).build().eval()
    folder = save(model, tmp_path / "student")
    assert json.loads((folder / "config.json").read_text())["architecture"] == "students.ViT"
    images = images_for(model)
    assert difference(load(folder)(images), model(images)) == 0.0


@st.composite
def configs(draw: st.DrawFn) -> ViTConfig:
    patch = draw(st.tuples(st.sampled_from([4, 8]), st.sampled_from([4, 8])))
    grid = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    heads = draw(st.integers(1, 3))
    classes = draw(st.integers(0, 4))
    class_token, distilled = draw(st.sampled_from([(True, False), (True, True), (False, False)]))
    return ViTConfig(
        img_size=(patch[0] * grid[0], patch[1] * grid[1]),
        patch_size=patch,
        in_chans=draw(st.integers(1, 4)),
        num_classes=classes,
        global_pool="token" if distilled or (class_token and draw(st.booleans())) else "avg",
        embed_dim=heads * draw(st.sampled_from([4, 8])),
        depth=draw(st.integers(1, 3)),
        num_heads=heads,
        mlp_ratio=draw(st.sampled_from([1.5, 4.0])),
        class_token=class_token,
        distilled=distilled,
        pos_embed=draw(st.sampled_from(["learn", "sincos"])),
        qkv_bias=draw(st.booleans()),
        drop_path_rate=draw(st.floats(0, 0.9)),
        act_layer=draw(st.sampled_from(["gelu", "gelu_tanh", "relu", "silu"])),
        norm_layer=draw(st.sampled_from(["layernorm", "rmsnorm"])),
        init_values=draw(st.none() | st.floats(0.01, 1)),
    )


@settings(max_examples=25)
@given(configs())
def test_any_student_comes_back_from_its_folder(config: ViTConfig) -> None:
    model = config.build().eval()
    images = images_for(model)
    with tempfile.TemporaryDirectory() as directory:
        folder = save(model, Path(directory) / "student")
        back = load(folder)
        theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert back.config == config
    assert difference(back(images), model(images)) == 0.0
    assert difference(theirs(images), model(images)) <= 1e-6


def test_folder_says_what_timm_expects(tmp_path: Path) -> None:
    folder = save(
        SMALL.override(in_chans=1, distilled=True).build(),
        tmp_path / "deep" / "student",
        label_names=list("abcde"),
        crop_pct=0.9,
        interpolation="bilinear",
    )
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "deit_tiny_distilled_patch16_224"
    assert config["pretrained_cfg"] == {
        "input_size": [1, 32, 32],
        "fixed_input_size": True,
        "interpolation": "bilinear",
        "crop_pct": 0.9,
        "mean": [0.449],
        "std": [0.226],
        "num_classes": 5,
        "first_conv": "patch_embed.proj",
        "classifier": ["head", "head_dist"],
        "label_names": ["a", "b", "c", "d", "e"],
    }
    timms_own = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)  # timm makes new heads
    assert timms_own(torch.zeros(1, 1, 32, 32)).shape == (1, 3)
    names = load_file(folder / "model.safetensors").keys()
    assert names == timms_own.state_dict().keys()


def test_another_size_resizes_the_positions_from_the_saved_grid(tmp_path: Path) -> None:
    model = SMALL.override(img_size=(16, 64)).build().eval()  # 2×8 patches: only the config tells them from 4×4
    folder = save(model, tmp_path / "student")
    for size in (32, (64, 16), (24, 40)):
        wide = load(folder, img_size=size)
        saved = model.pos_embed[:, 1:].mT.reshape(1, 24, 2, 8)
        expected = F.interpolate(saved, wide.config.grid_size, mode="bicubic", antialias=True).flatten(2).mT
        torch.testing.assert_close(wide.pos_embed[:, 1:], expected, atol=1e-6, rtol=0)
        assert torch.equal(wide.pos_embed[:, 0], model.pos_embed[:, 0])


def test_another_number_of_classes_is_a_new_head_only(tmp_path: Path) -> None:
    model = SMALL.override(distilled=True).build()
    folder = save(model, tmp_path / "student")
    other = load(folder, num_classes=3, drop_path_rate=0.1)
    same = {n for n, t in other.state_dict().items() if t.shape == model.state_dict()[n].shape}
    assert all(torch.equal(other.state_dict()[name], model.state_dict()[name]) for name in same)
    assert model.state_dict().keys() - same == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}
    assert load(folder, num_classes=0)(torch.zeros(1, 3, 32, 32)).shape == (1, 24)
    assert other.config == model.config.override(num_classes=3, drop_path_rate=0.1)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_folders_that_timm_wrote_are_read(tmp_path: Path, name: str) -> None:
    words = {"img_size": (64, 32), "in_chans": 1, "num_classes": 4, "depth": 2, "drop_path_rate": 0.1}
    theirs = timm.create_model(name, pretrained=False, **words).eval()
    timm.models.save_for_hf(theirs, str(tmp_path / "hub"), model_args=words, safe_serialization=True)  # pyright: ignore[reportPrivateImportUsage]
    mine = load(tmp_path / "hub")
    assert (mine.config.grid_size, mine.config.distilled) == ((4, 2), "distilled" in name)
    images = torch.randn(1, 1, 64, 32)
    assert difference(mine(images), theirs(images)) <= 1e-6


def test_statistics_of_other_channels_give_their_mean(tmp_path: Path) -> None:
    folder = save(SMALL.override(in_chans=1).build(), tmp_path / "student")
    config = json.loads((folder / "config.json").read_text())
    config["model_args"] = {word: value for word, value in config["student"].items() if word not in ("mean", "std")}
    del config["student"]
    config["architecture"] = "vit_tiny_patch16_224"
    config["pretrained_cfg"] |= {"mean": [0.4, 0.5, 0.9], "std": [0.1, 0.2, 0.3]}  # as timm 1.0.30 writes them
    (folder / "config.json").write_text(json.dumps(config))
    mine = load(folder)
    assert mine.config.mean == pytest.approx((0.6,))
    assert mine.config.std == pytest.approx((0.2,))


def test_plain_config_of_the_hub_is_read(tmp_path: Path) -> None:
    theirs = timm.create_model("vit_tiny_patch16_224", pretrained=False).eval()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    statistics = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 1000, "num_features": 192}
    config |= {"model_args": {"img_size": None, "init_values": None}}
    config |= {"pretrained_cfg": {"tag": "augreg_in21k_ft_in1k", "input_size": [3, 224, 224], **statistics}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    mine = load(tmp_path)
    assert mine.config.input_mean == (0.5, 0.5, 0.5)
    images = torch.randn(1, 3, 224, 224)
    assert difference(mine(images), theirs(images)) <= 1e-5


def test_weights_alone_know_their_student(tmp_path: Path) -> None:
    model = SMALL.override(qk_scale=0.5).build().eval()
    folder = save(model, tmp_path / "student")
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "best.safetensors")
    images = images_for(model)
    for place in (folder, folder / "best.safetensors"):
        assert difference(load(place)(images), model(images)) == 0.0


def test_failed_save_leaves_the_old_student_whole(tmp_path: Path) -> None:
    old = SMALL.build().eval()
    folder = save(old, tmp_path / "student")
    (folder / "notes.txt").write_text("mine")
    tied = SMALL.override(num_classes=9).build()
    tied.blocks[1].mlp = tied.blocks[0].mlp  # safetensors refuses shared weights, after config.json is written
    with pytest.raises(RuntimeError, match="share memory"):
        save(tied, folder)
    with pytest.raises(ValueError, match="2 label_names for 5 classes"):
        save(old, folder, label_names=["a", "b"])
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "notes.txt"]
    images = images_for(old)
    assert difference(load(folder)(images), old(images)) == 0.0
    new = SMALL.override(num_classes=9).build().eval()
    assert difference(load(save(new, folder))(images), new(images)) == 0.0
    assert (folder / "notes.txt").read_text() == "mine"


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = save(SMALL.build(), tmp_path / "student")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


def test_errors_of_load(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere; give one with config\.json"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has no model\.safetensors but 0 other"):
        load(tmp_path)
    folder = save(SMALL.build(), tmp_path / "student")
    with pytest.raises(ValueError, match=r"no option 'image_size'; did you mean 'img_size'\?"):
        load(folder, image_size=64)
    with pytest.raises(ValueError, match=r"'blocks.2.attn.proj.bias' is absent but the student's is \[24\]"):
        load(folder, depth=3)
    with pytest.raises(ValueError, match=r"'patch_embed.proj.weight' is \[24, 3, 8, 8\] but .* \[24, 1, 8, 8\]"):
        load(folder, in_chans=1)
    with pytest.raises(ValueError, match="'dist_token' is absent"):
        load(folder, distilled=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "resnet50"}, "architecture 'resnet50' is no plain ViT"),
        ({"num_classes": 5}, "architecture None is no plain ViT"),
        ({"architecture": "vit_base_patch16_clip_224"}, "is no plain ViT"),
        ({"architecture": "vit_tiny_patch16_224", "model_args": {"reg_tokens": 4}}, "no option 'reg_tokens'"),
        ({"architecture": "vit_tiny_patch16_224", "num_classes": 5}, "is .* but the student's is"),
    ],
    ids=str,
)
def test_configs_that_are_no_students(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    folder = save(SMALL.build(), tmp_path / "student")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_broken_files_are_named(tmp_path: Path) -> None:
    folder = save(SMALL.build(), tmp_path / "student")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no JSON"):
        load(folder)
    save_file({"head.weight": torch.zeros(1)}, folder / "model.safetensors")
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"there is no config\.json beside"):
        load(folder)


def test_a_compiled_student_is_saved_as_the_student_that_it_is(tmp_path: Path) -> None:
    model = SMALL.build().eval()
    save(torch.compile(model), tmp_path / "s")  # pyright: ignore[reportArgumentType]
    x = images_for(model)
    assert torch.equal(load(tmp_path / "s")(x), model(x))


def test_a_student_that_is_not_what_its_config_says_is_not_saved(tmp_path: Path) -> None:
    model = SMALL.build()
    model.head = torch.nn.Linear(24, 3)
    with pytest.raises(ValueError, match=r"the student's head\.weight is \[3, 24\] but its config says \[5, 24\]"):
        save(model, tmp_path / "s")
    assert not (tmp_path / "s").exists()
