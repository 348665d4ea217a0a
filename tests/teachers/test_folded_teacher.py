"""A CNN with its BatchNorm folded says what it said before, and is still the same teacher."""

import copy
from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from timm.models.nfnet import NormFreeNet
from torch import Tensor, nn

from students.outputs import Outputs
from teachers import FrozenTeacher, Teacher
from teachers.runtime import weights_digest
from teachers.runtime.agreement import check, deviation
from teachers.runtime.contract import Answers, UnsuitableError
from teachers.runtime.eager import eager
from teachers.runtime.fold import fold
from teachers.runtime.folded import FoldedCore, convolutional

CPU = torch.device("cpu")
WITH_GRIDS = pytest.mark.skipif(
    not hasattr(NormFreeNet, "forward_intermediates"), reason="this timm hands out no grids of NFNets"
)


def built(name: str, *, pretrained: bool = False) -> FrozenTeacher:
    """Eager, at 64 px, with BatchNorm statistics as after a training."""
    teacher = Teacher(name=name, img_size=64, runtime="eager").build(pretrained=pretrained)
    for norm in teacher.model.modules():
        if isinstance(norm, nn.BatchNorm2d) and not pretrained:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.5, 2)
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_(0, 0.2)
    return teacher


def answers(outputs: Outputs) -> Answers:
    assert outputs.embedding is not None
    return outputs.logits, outputs.embedding, dict(outputs.grids)


@pytest.mark.parametrize(
    ("name", "norms"),
    [
        ("test_resnet", 15),
        ("test_efficientnet", 13),
        ("test_byobnet", 14),
        ("mobilenetv3_small_050", 34),
        ("tf_efficientnet_lite0", 49),
    ],
)
def test_folded_equals_unfolded(name: str, norms: int) -> None:
    teacher = built(name, pretrained="lite0" in name)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in teacher.model.modules()) == norms
    views, layers = torch.rand(3, 3, 64, 64), tuple(range(len(teacher.shapes.grids)))
    before = answers(teacher(views, layers))
    state, digest, params = copy.deepcopy(teacher.state_dict()), weights_digest(teacher.model), teacher.num_params()
    teacher.start(CPU, layers, views)
    assert teacher.runtime_note == "eager, BatchNorm folded"
    assert isinstance(teacher._fast, FoldedCore)
    assert isinstance(teacher._fast.model, nn.Module)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in teacher._fast.model.modules())
    after = teacher(views, layers)
    assert 0 < deviation(answers(after), before) < 1e-5
    assert all(grid.is_contiguous() for grid in after.grids.values())
    assert answers(teacher(views, layers[:1]))[2].keys() == {0}
    torch.testing.assert_close(teacher.state_dict(), state, atol=0, rtol=0)
    assert (weights_digest(teacher.model), teacher.num_params()) == (digest, params)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", pytest.param("test_nfnet", marks=WITH_GRIDS)])
def test_without_batchnorm_nothing_changes(name: str) -> None:
    teacher = built(name)
    views = torch.rand(2, 3, 64, 64)
    before = answers(teacher(views, (0,)))
    assert teacher.start(CPU, (0,), views).runtime_note == "eager"
    assert teacher._fast is None
    assert deviation(answers(teacher(views, (0,))), before) == 0


@pytest.mark.parametrize(
    ("name", "cnn"),
    [("test_vit", False), ("test_convnext", True), pytest.param("test_nfnet", True, marks=WITH_GRIDS)],
)
def test_channels_last_equals_contiguous(name: str, cnn: bool) -> None:
    model = built(name).model
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        other = FoldedCore(copy.deepcopy(model).to(memory_format=torch.channels_last), (0, 1))(x)
        assert deviation(other, eager(model, x, (0, 1))) < 1e-5
    assert all(grid.is_contiguous() for grid in other[2].values())
    assert convolutional(model) == cnn


def test_autocast_at_the_start_and_at_the_call() -> None:
    teacher = built("test_resnet")
    views = torch.rand(4, 3, 64, 64)
    exact = answers(teacher(views, (2,)))
    with torch.autocast("cpu", torch.bfloat16):
        rough = deviation(answers(teacher(views, (2,))), exact)
        teacher.start(CPU, (2,), views)
        assert teacher.runtime_note == "eager, BatchNorm folded"
        out = teacher(views, (2,))
    assert out.logits.dtype == torch.bfloat16
    assert 1e-3 < deviation(answers(out), exact) < 3 * rough  # bfloat16 keeps 8 bits
    assert deviation(answers(teacher(views, (2,))), exact) == 0  # not started for float32: the model as it is


class Odd(nn.Module):
    """Three convolutions with a BatchNorm behind each, of which only the first can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3))
        self.norms = nn.ModuleList([BatchNormAct2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norms[0](self.convs[0](x))
        y = self.convs[1](x)
        x = self.norms[1](y) + y  # the convolution's output is read twice
        y = self.convs[2](x)
        return y, self.norms[2](y)  # it is handed out


def test_only_what_nothing_else_reads_is_folded() -> None:
    odd: Any = Odd().eval()
    for norm in odd.norms:
        assert isinstance(norm, nn.BatchNorm2d)
        norm.running_mean = torch.rand(3)
        norm.running_var = torch.rand(3) + 0.5
    x = torch.randn(2, 3, 4, 4)
    folded: Any
    folded, count = fold(odd, lambda model: model(x))
    assert count == 1
    with torch.no_grad():
        torch.testing.assert_close(folded(x), odd(x), atol=1e-6, rtol=0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in odd.modules())


def test_fold_by_hand() -> None:
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=1)
    for tensor, value in ((conv.weight, 3), (conv.bias, 1), (norm.weight, 10), (norm.bias, 7)):
        assert tensor is not None
        tensor.data.fill_(value)
    norm.running_mean, norm.running_var = torch.tensor([5.0]), torch.tensor([3.0])
    pair = nn.Sequential(conv, norm).eval()
    folded, count = fold(pair, lambda model: model(torch.zeros(1, 1, 1, 1)))
    conv: Any = folded.get_submodule("0")
    assert (count, conv.weight.item(), conv.bias.item()) == (1, 15, -13)  # 3 · 10 / √4, (1 - 5) · 10 / √4 + 7


def test_deviation_by_hand_and_not_a_number() -> None:
    two, four = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]])
    assert deviation((two, two, {3: four}), (two, two, {3: four + 1})) == pytest.approx(1 / 5)
    assert deviation((two, two, {}), (two, four, {})) == pytest.approx(2 / 4)
    assert deviation((0 * two, two, {}), (0 * two, two, {})) == 0
    broken = deviation((two, two * float("nan"), {}), (two, two, {}))
    assert broken != broken

    class Broken:
        layers, note = (), "broken"

        def __call__(self, x: Tensor) -> Answers:
            return x.mean((2, 3)), x.mean((2, 3)) * float("nan"), {}

    class Mean(nn.Module):
        def forward_features(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

        def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
            return x

    with pytest.raises(UnsuitableError, match="differs from eager by nan"):
        check(Broken(), Mean(), torch.rand(2, 3, 4, 4))
