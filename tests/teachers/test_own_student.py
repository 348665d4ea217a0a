"""A student with options that timm has no words for teaches by the name of its folder."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import students
from students import ViTConfig
from teachers import Head, Teacher

CONFIG = ViTConfig(
    img_size=28, patch_size=7, in_chans=1, num_classes=4, embed_dim=24, depth=3, num_heads=2, mean=(0.3,), std=(0.2,)
)
BEYOND_TIMM = {
    "qk_scale": replace(CONFIG, qk_scale=0.5),
    "representation": replace(CONFIG, representation_size=10),
    "token and averaging": replace(CONFIG, distilled=True, global_pool="avg"),
}


@pytest.mark.parametrize("config", BEYOND_TIMM.values(), ids=BEYOND_TIMM)
def test_it_says_what_the_student_says(tmp_path: Path, config: ViTConfig) -> None:
    student = config.build().eval()
    students.save(student, tmp_path, label_names=["shirt", "shoe", "bag", "coat"])
    config_of = Teacher(name=str(tmp_path), runtime="eager")
    assert config_of.weights_source() == f"folder {tmp_path}"
    assert config_of.label_names() == ("shirt", "shoe", "bag", "coat")
    teacher, views = config_of.build(layers=[-1]), torch.rand(2, 1, 28, 28)
    assert teacher.shapes == config_of.shapes()
    with torch.no_grad():
        x = (views - 0.3) / 0.2
        logits, theirs = student(x), student.outputs(x, [2])
    ours = teacher(views, [2])
    torch.testing.assert_close(ours.logits, logits)
    torch.testing.assert_close(ours.embedding, theirs.embedding)
    torch.testing.assert_close(ours.grids[2], theirs.grids[2])
    assert teacher.num_params() == sum(parameter.numel() for parameter in student.parameters())
    width = teacher.shapes.embedding
    head = Head(torch.zeros(9, width), torch.zeros(9), l2=1, heldout_top1=0, heldout_nll=0)
    heads = 2 if config.distilled else 1
    assert teacher.num_params() - config_of.build(head=head).num_params() == heads * 4 * (width + 1) - 9 * (width + 1)


def test_another_size_and_a_checkpoint(tmp_path: Path) -> None:
    students.save(BEYOND_TIMM["qk_scale"].build(), tmp_path)
    larger = Teacher(name=f"local-dir:{tmp_path}", img_size=56, runtime="eager")
    assert larger.build()(torch.rand(1, 1, 28, 28), [0]).grids[0].shape == (1, 24, 8, 8)
    assert larger.shapes().grids[0] == (24, 8, 8)
    assert larger.label_names() is None
    with pytest.raises(ValueError, match="is a saved student with weights of its own; leave out the checkpoint"):
        Teacher(name=str(tmp_path), checkpoint="other.safetensors").shapes()
    with pytest.raises(ValueError, match="there is no layer 3; it has 3 layers"):
        larger.build(layers=[3])


def test_it_is_exported_like_any_other(tmp_path: Path) -> None:
    students.save(BEYOND_TIMM["token and averaging"].build(), tmp_path)
    fast = Teacher(name=str(tmp_path), runtime="onnxruntime").build().start(torch.device("cpu"), [1])
    assert fast.runtime_note.startswith("onnxruntime")
    views = torch.rand(2, 1, 28, 28)
    slow = Teacher(name=str(tmp_path), runtime="eager").build()
    torch.testing.assert_close(fast(views, [1]).logits, slow(views, [1]).logits, atol=1e-4, rtol=0)


def test_its_classes_can_be_mapped_by_name(tmp_path: Path) -> None:
    student = BEYOND_TIMM["qk_scale"].build().eval()
    students.save(student, tmp_path, label_names=["shirt", "shoe", "bag", "coat"])
    config = Teacher(name=str(tmp_path), class_map="names", runtime="eager")
    mapped = config.mapped(["coat", "shoe"])
    assert mapped is not None
    assert mapped.groups == ((3,), (1,))
    teacher, views = config.build(class_map=mapped), torch.rand(2, 1, 28, 28)
    plain = Teacher(name=str(tmp_path), runtime="eager").build()
    torch.testing.assert_close(teacher(views).logits, plain(views).logits[:, [3, 1]])
    with pytest.raises(ValueError, match="unlabelled images have none; leave out --teacher"):
        config.mapped([])
