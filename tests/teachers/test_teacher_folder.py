"""A teacher with a new head, saved: timm loads it with equal logits."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.data.config
import torch

from teachers import Teacher, classifier, folder, source

KINDS = {
    "a CNN": Teacher(name="test_resnet", img_size=64),
    "its head is a convolution": Teacher(name="resnetv2_50", img_size=64),
    "a ViT of another size": Teacher(name="test_vit", img_size=(96, 64)),
    "two heads": Teacher(name="deit_tiny_distilled_patch16_224", img_size=32),
    "a norm before the head": Teacher(name="test_convnext"),
}
NAMES = ["coat", "shoe", "bag"]


def saved(config: Teacher, where: Path) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    plan, teacher = source.plan(config), config.build(pretrained=False)
    weight, bias = torch.randn(3, teacher.shapes.embedding), torch.randn(3)
    x = teacher.preprocess(torch.rand(2, 3, 40, 40))
    embedding = teacher(torch.rand(1, 3, 40, 40)).embedding
    assert embedding is not None
    classifier.put(teacher.model, weight, bias, x, config.name)
    folder.save(teacher.model, where, plan, x, label_names=NAMES, crop_pct=0.9, interpolation="bilinear")
    return teacher.model, x, weight, bias


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_timm_loads_it_with_equal_logits(config: Teacher, tmp_path: Path) -> None:
    model, x, weight, bias = saved(config, tmp_path)
    again: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), atol=1e-5, rtol=0)
        embedding = again.forward_head(again.forward_features(x), pre_logits=True)
        torch.testing.assert_close(again(x), embedding @ weight.T + bias, atol=1e-4, rtol=1e-4)
    teacher = Teacher(name=str(tmp_path))
    assert teacher.label_names() == tuple(NAMES)
    built = teacher.build()
    assert built.num_classes == 3
    assert built.preprocess.img_size == tuple(x.shape[-2:])
    data = timm.data.config.resolve_model_data_config(again)
    assert (data["crop_pct"], data["interpolation"]) == (0.9, "bilinear")


def test_a_saved_teacher_can_be_fitted_and_saved_again(tmp_path: Path) -> None:
    saved(KINDS["a ViT of another size"], tmp_path / "one")
    model, x, *_ = saved(Teacher(name=str(tmp_path / "one")), tmp_path / "two")
    again = timm.create_model(f"local-dir:{tmp_path / 'two'}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), atol=1e-5, rtol=0)
    assert json.loads((tmp_path / "two" / "config.json").read_text())["model_args"] == {"img_size": [96, 64]}


def test_a_temperature_divides_the_logits(tmp_path: Path) -> None:
    model, x, *_ = saved(KINDS["two heads"], tmp_path)
    with torch.no_grad():
        before = model(x)
        classifier.divide(model, 2.5, "deit")
        torch.testing.assert_close(model(x), before / 2.5)


def test_a_head_of_another_kind_is_refused() -> None:
    teacher = Teacher(name="levit_128").build(pretrained=False)
    with pytest.raises(ValueError, match="head of 'levit_128' is a NormLinear and not a linear layer with a bias"):
        classifier.classifiers(teacher.model, "levit_128")


def test_a_model_that_timm_cannot_rebuild_is_refused(tmp_path: Path) -> None:
    config = KINDS["a CNN"]
    plan, teacher = source.plan(config), config.build(pretrained=False)
    teacher.model.fc.weight.requires_grad_(False).mul_(3)
    x = teacher.preprocess(torch.rand(1, 3, 64, 64))
    teacher.model.pretrained_cfg["architecture"] = "test_vit"
    with pytest.raises(ValueError, match="timm cannot rebuild 'test_resnet' from a folder"):
        folder.save(teacher.model, tmp_path, plan, x, label_names=NAMES, crop_pct=1.0, interpolation="bicubic")
    assert list(tmp_path.iterdir()) == []
