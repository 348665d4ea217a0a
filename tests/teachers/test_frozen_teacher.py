"""What a frozen teacher says is what timm says, and it never changes."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from students import ViTConfig, save
from students.outputs import Outputs
from teachers import Head, Teacher

SMALL = {
    "test_resnet": Teacher(name="test_resnet"),
    "test_convnext": Teacher(name="test_convnext"),
    "test_efficientnet": Teacher(name="test_efficientnet"),
    "test_vit": Teacher(name="test_vit"),
    "test_vit at 96×64": Teacher(name="test_vit", img_size=(96, 64)),
    "distilled deit": Teacher(name="deit_tiny_distilled_patch16_224", img_size=32),
}


def head(classes: int, embedding: int) -> Head:
    return Head(torch.randn(classes, embedding), torch.randn(classes), l2=0.1, heldout_top1=0.5, heldout_nll=1.0)


def assert_same_outputs(ours: Outputs, theirs: Outputs, atol: float = 1e-5) -> None:
    torch.testing.assert_close(ours.logits, theirs.logits, atol=atol, rtol=0)
    torch.testing.assert_close(ours.embedding, theirs.embedding, atol=atol, rtol=0)
    torch.testing.assert_close(dict(ours.grids), dict(theirs.grids), atol=atol, rtol=0)


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_outputs_equal_timms(config: Teacher) -> None:
    teacher = config.build(pretrained=False)
    views = torch.rand(2, 3, *teacher.preprocess.img_size)
    depth = len(teacher.shapes.grids)
    ours = teacher(views, (depth - 1, 0))  # in any order
    x = teacher.preprocess(views)
    with torch.no_grad():
        features, grids = teacher.model.forward_intermediates(x)
        theirs = Outputs(
            teacher.model(x),
            embedding=teacher.model.forward_head(features, pre_logits=True),
            grids={0: grids[0], depth - 1: grids[-1]},
        )
    assert_same_outputs(ours, theirs)
    # No grids are made unasked.
    assert_same_outputs(teacher(views), Outputs(theirs.logits, embedding=theirs.embedding))


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_shapes_are_known_before_the_model(config: Teacher) -> None:
    shapes, teacher = config.shapes(), config.build(pretrained=False)
    out = teacher(torch.rand(2, 3, 40, 50), range(len(shapes.grids)))
    assert out.logits.shape == (2, shapes.num_classes)
    assert out.embedding is not None
    assert out.embedding.shape == (2, shapes.embedding)
    assert {layer: tuple(grid.shape[1:]) for layer, grid in out.grids.items()} == shapes.grids
    assert teacher.shapes == shapes


def test_shapes_by_hand() -> None:
    vit = Teacher(name="vit_tiny_patch16_224", img_size=96).shapes()
    assert (vit.num_classes, vit.embedding, vit.has_token) == (1000, 192, False)
    assert vit.grids == dict.fromkeys(range(12), (192, 6, 6))  # 96 / 16
    resnet = Teacher(name="resnet50", img_size=64).shapes()
    assert (resnet.num_classes, resnet.embedding) == (1000, 2048)
    assert resnet.grids == {0: (64, 32, 32), 1: (256, 16, 16), 2: (512, 8, 8), 3: (1024, 4, 4), 4: (2048, 2, 2)}


def test_a_teacher_never_trains() -> None:
    teacher = Teacher(name="test_resnet").build(pretrained=False)
    before = copy.deepcopy(teacher.state_dict())
    nn.ModuleDict({"teacher": teacher}).train()
    teacher(torch.rand(8, 3, 64, 64), (1,))
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert any(key.endswith("running_mean") for key in before)
    torch.testing.assert_close(teacher.state_dict(), before, atol=0, rtol=0)


def test_its_outputs_can_enter_a_loss_that_trains_another() -> None:
    teacher = Teacher(name="test_resnet", img_size=32).build(pretrained=False)
    student = nn.Linear(1000, 1)
    student(teacher(torch.rand(2, 3, 32, 32)).logits).sum().backward()  # inference-mode tensors would refuse
    assert student.weight.grad is not None


def test_grey_views_are_repeated_and_other_sizes_resized() -> None:
    teacher = Teacher(name="test_resnet", img_size=64).build(pretrained=False)
    grey = torch.rand(2, 1, 28, 28)
    assert torch.equal(teacher(grey).logits, teacher(grey.expand(-1, 3, -1, -1)).logits)
    large = interpolate(grey, (64, 64), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(teacher(grey).logits, teacher(large).logits, atol=1e-5, rtol=0)


def test_a_fitted_head_answers_from_the_embedding() -> None:
    own = head(10, 64)
    teacher = Teacher(name="test_vit", head="fit").build(head=own, pretrained=False)
    out = teacher(torch.rand(2, 3, 160, 160))
    assert out.embedding is not None
    torch.testing.assert_close(out.logits, out.embedding @ own.weight.T + own.bias)
    assert (teacher.num_classes, teacher.shapes.num_classes) == (10, 10)
    plain = Teacher(name="test_vit").build(pretrained=False)
    assert plain.num_params() - teacher.num_params() == 65 * 1000 - 65 * 10


def test_a_distilled_teacher_has_two_heads_to_replace() -> None:
    config = Teacher(name="deit_tiny_distilled_patch16_224", img_size=32)
    plain, fitted = config.build(pretrained=False), config.build(head=head(10, 192), pretrained=False)
    assert plain.num_params() - fitted.num_params() == 2 * 193 * 1000 - 193 * 10


def test_a_model_without_a_head_of_its_own_has_no_logits() -> None:
    teacher = Teacher(name="vit_base_patch16_224.dino", img_size=32)
    assert teacher.shapes().num_classes == 0
    built = teacher.build(pretrained=False)
    assert built(torch.rand(2, 3, 32, 32)).logits.shape == (2, 0)


def test_autocast_is_obeyed() -> None:
    teacher = Teacher(name="test_vit").build(pretrained=False)
    views = torch.rand(1, 3, 160, 160)
    exact = teacher(views, (3,))
    with torch.autocast("cpu", torch.bfloat16):
        rough = teacher(views, (3,))
    assert rough.logits.dtype == torch.bfloat16
    assert torch.cosine_similarity(rough.logits.float(), exact.logits).item() > 0.999


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda teacher: pickle.loads(pickle.dumps(teacher))])
def test_copies_say_the_same(duplicate) -> None:
    teacher = Teacher(name="test_resnet", img_size=32).build(head=head(5, 96), pretrained=False)
    assert_same_outputs(
        duplicate(teacher)(torch.ones(1, 3, 32, 32), (2,)), teacher(torch.ones(1, 3, 32, 32), (2,)), atol=0
    )


@pytest.mark.parametrize("distilled", [False, True])
def test_yesterdays_student_teaches(tmp_path, distilled: bool) -> None:
    config = ViTConfig(
        img_size=28, patch_size=7, in_chans=1, num_classes=4, embed_dim=24, depth=3, num_heads=2, distilled=distilled
    )
    student = config.build().eval()
    save(student, tmp_path, label_names=["shirt", "shoe", "bag", "coat"])
    assert Teacher(name=str(tmp_path)).shapes().grids == dict.fromkeys(range(3), (24, 4, 4))
    assert Teacher(name=f"local-dir:{tmp_path}").label_names() == ("shirt", "shoe", "bag", "coat")
    assert Teacher(name=str(tmp_path)).weights_source() == f"folder {tmp_path}"
    teacher = Teacher(name=str(tmp_path)).build()
    views: Tensor = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        theirs = student(teacher.preprocess(views))
    torch.testing.assert_close(teacher(views).logits, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_other_weights_are_heard_at_once(runtime: Any, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path))
    teacher = Teacher(name="test_resnet", runtime=runtime).build(pretrained=False).start(torch.device("cpu"))
    views = torch.rand(2, 3, *teacher.preprocess.img_size)
    before = teacher(views).logits
    teacher.load_state_dict({name: torch.zeros_like(weight) for name, weight in teacher.state_dict().items()})
    assert before.abs().max() > 0
    assert teacher(views).logits.abs().max() == 0
    assert teacher.runtime_note == "eager"
