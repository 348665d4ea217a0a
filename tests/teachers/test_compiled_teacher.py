"""torch.compile says what eager says at every batch size, keeps what it compiled with us, and fails in one line."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor import config

from students.outputs import Shapes
from students.preprocess import Preprocess
from teachers import FrozenTeacher
from teachers.runtime.agreement import deviation
from teachers.runtime.compiled import CompiledCore

CPU = torch.device("cpu")


class Products(nn.Module):
    """Matrix products alone: inductor needs no C++ compiler for them, and a test no half minute."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(48, 6, bias=False)
        self.proj = nn.Linear(6, 4, bias=False)

    def forward_features(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.stem.weight.T

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x if pre_logits else self.proj(x)


class Cosine(Products):
    """Needs a kernel of its own."""

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return super().forward_head(x.cos(), pre_logits)


def teacher(model: nn.Module) -> FrozenTeacher:
    shapes = Shapes(num_classes=4, has_token=False, embedding=6, grids={})
    preprocess = Preprocess((4, 4), (0.0,) * 3, (1.0,) * 3)
    return FrozenTeacher(model, name="toy", shapes=shapes, preprocess=preprocess, runtime="inductor")


def test_inductor_equals_eager_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    ours = teacher(Products())
    assert ours.start(CPU).runtime_note == "inductor"
    assert isinstance(ours._fast, CompiledCore)
    graphs = counters["stats"]["unique_graphs"]
    for batch in (1, 2, 5, 16, 33):
        x = torch.rand(batch, 3, 4, 4)
        with torch.no_grad():
            exact = ours.model.forward_features(x)
            assert deviation(ours._fast(x), (ours.model.proj(exact), exact, {})) < 1e-6
    assert counters["stats"]["unique_graphs"] == graphs  # compiled at the start, all of it
    assert any((tmp_path / "teachers" / "inductor" / "fxgraph").rglob("*"))
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    assert "TRITON_CACHE_DIR" not in os.environ
    assert capfd.readouterr() == ("", "")


def test_without_a_compiler_it_is_refused_in_a_line() -> None:
    with (
        config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(ValueError, match="'toy' cannot run on inductor: it cannot be compiled: ") as caught,
    ):
        teacher(Cosine()).start(CPU)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("; use --teacher.runtime auto or eager")
