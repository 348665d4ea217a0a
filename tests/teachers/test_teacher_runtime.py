"""A runtime says what eager says, quietly; onnxruntime once exported. Otherwise eager runs and says why."""

import copy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from students.outputs import Outputs, Shapes
from students.preprocess import Preprocess
from teachers import FrozenTeacher, Teacher
from teachers.runtime import check_installed, smooth_noise
from teachers.runtime.onnx import OnnxCore, images_at_once
from teachers.teacher import RuntimeName

CPU = torch.device("cpu")
RESNET = Teacher(name="test_resnet", img_size=64)


def relative(ours: Tensor | None, theirs: Tensor | None) -> float:
    assert ours is not None
    assert theirs is not None
    return float((ours - theirs).abs().max() / theirs.abs().max())


def furthest(ours: Outputs, theirs: Outputs) -> float:
    pairs = [(ours.logits, theirs.logits), (ours.embedding, theirs.embedding)]
    assert ours.grids.keys() == theirs.grids.keys()
    return max(relative(a, b) for a, b in [*pairs, *((ours.grids[i], theirs.grids[i]) for i in theirs.grids)])


def exported(teacher: FrozenTeacher) -> Path:
    assert isinstance(teacher._fast, OnnxCore)
    return teacher._fast.file


def test_lite0_equals_eager_and_is_exported_once(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = Teacher(name="tf_efficientnet_lite0", img_size=112)
    teacher, eager = config.build().start(CPU, (2, 4)), config.build()
    file = exported(teacher)
    assert file.parent == cache / "teachers"
    for batch in (1, 3, 8):
        views = nn.functional.interpolate(torch.rand(batch, 3, 16, 16), 128, mode="bicubic").clamp(0, 1)
        assert furthest(teacher(views, (2, 4)), eager(views, (2, 4))) < 1e-4
        assert furthest(teacher(views, (4,)), eager(views, (4,))) < 1e-4  # fewer than it was started for
        assert furthest(teacher(views, (0,)), eager(views, (0,))) == 0  # not exported: eager
    written = file.stat().st_mtime_ns
    again = config.build().start(CPU, (4, 2))
    assert again.runtime_note == "onnxruntime"
    assert exported(again) == file
    assert file.stat().st_mtime_ns == written
    assert list(file.parent.glob("tmp*")) == []
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_other_families_equal_eager(name: str) -> None:
    teacher = Teacher(name=name, img_size=96, runtime="onnxruntime").build(pretrained=False)
    views = torch.rand(5, 3, 96, 96)
    eager = teacher(views, (1, 3))
    assert furthest(teacher.start(CPU, (1, 3))(views, (1, 3)), eager) < 1e-4
    assert teacher._fast is not None


def test_a_batch_in_parts_says_what_it_says_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, views = RESNET.build(pretrained=False).start(CPU, (1, 3)), torch.rand(7, 3, 64, 64)
    whole = teacher(views, (1, 3))
    monkeypatch.setattr("teachers.runtime.onnx.PIXELS_AT_ONCE", 2 * 64 * 64)  # so parts of 2, 2, 2 and 1
    assert furthest(teacher(views, (1, 3)), whole) < 1e-6


@pytest.mark.parametrize(("size", "images"), [(28, 256), (96, 32), (112, 16), (224, 4), (512, 1), (1024, 1)])
def test_parts_have_about_so_many_pixels(size: int, images: int) -> None:
    # 2^18 pixels are 334.4, 28.4, 20.9, 5.2, 1 and 0.25 images.
    assert images_at_once(torch.empty(64, 3, size, size, device="meta")) == images


def test_other_weights_are_another_file_and_a_damaged_file_is_made_anew() -> None:
    teacher, other = RESNET.build(pretrained=False), RESNET.build(pretrained=False)
    teacher.start(CPU)
    other.start(CPU)
    file = exported(teacher)
    assert file != exported(other)
    file.write_bytes(file.read_bytes()[:1000])
    assert exported(teacher.start(CPU)) == file
    assert file.stat().st_size > 100_000


def test_a_copy_starts_for_itself() -> None:
    teacher = RESNET.build(pretrained=False).start(CPU)
    duplicate = copy.deepcopy(teacher)
    assert (duplicate._fast, teacher._fast is None) == (None, False)
    assert furthest(duplicate(torch.ones(1, 3, 64, 64)), teacher(torch.ones(1, 3, 64, 64))) < 1e-4
    assert teacher.state_dict().keys() == RESNET.build(pretrained=False).state_dict().keys()


def test_onnxruntime_is_for_float32() -> None:
    views = torch.rand(2, 3, 64, 64)
    teacher = RESNET.build(pretrained=False).start(CPU)
    with torch.autocast("cpu", torch.bfloat16):
        assert teacher(views).logits.dtype == torch.bfloat16  # eager answers
        teacher.runtime = "onnxruntime"
        with pytest.raises(ValueError, match="mixed precision is on"):
            teacher(views)
        with pytest.raises(ValueError, match="cannot run on onnxruntime: mixed precision is on"):
            teacher.start(CPU)
        teacher.runtime = "auto"
        teacher.start(CPU)
        assert teacher.runtime_note.startswith("eager, BatchNorm folded (mixed precision is on")
        assert teacher(views).logits.dtype == torch.bfloat16


class Toy(nn.Module):
    """A teacher of four classes that breaks in one way when it is not run eagerly."""

    def __init__(self, flaw: str) -> None:
        super().__init__()
        self.flaw = flaw
        self.proj = nn.Linear(3, 4)

    def forward_features(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        if self.flaw == "noise":
            return x + torch.rand_like(x)
        return x if x.sum() > 0 else -x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x if pre_logits else self.proj(x)


def toy(flaw: str, runtime: RuntimeName) -> FrozenTeacher:
    preprocess = Preprocess((8, 8), (0.0,) * 3, (1.0,) * 3)
    shapes = Shapes(num_classes=4, has_token=False, embedding=3, grids={})
    return FrozenTeacher(Toy(flaw), name="toy", shapes=shapes, preprocess=preprocess, runtime=runtime)


@pytest.mark.parametrize(
    ("flaw", "reason"), [("noise", "it differs from eager by"), ("branch", "the export failed with")]
)
def test_what_cannot_run_there_runs_eagerly_or_is_refused(flaw: str, reason: str, capfd: Any) -> None:
    teacher = toy(flaw, "auto").start(CPU)
    assert teacher.runtime_note.startswith(f"eager ({reason}")
    assert "\n" not in teacher.runtime_note
    assert teacher(smooth_noise(3)).logits.shape == (3, 4)
    with pytest.raises(ValueError, match=f"'toy' cannot run on onnxruntime: {reason}"):
        toy(flaw, "onnxruntime").start(CPU)
    assert toy(flaw, "eager").start(CPU).runtime_note == "eager"
    assert capfd.readouterr() == ("", "")


def test_a_model_without_grids_says_so() -> None:
    with pytest.raises(ValueError, match="'toy' hands out no grids of its layers"):
        toy("noise", "auto")(smooth_noise(3), (0,))


def test_onnxruntime_is_for_the_cpu() -> None:
    with pytest.raises(ValueError, match="the device is meta and onnxruntime is used on the CPU"):
        Teacher(name="test_resnet", runtime="onnxruntime").build(pretrained=False).start(torch.device("meta"))


def test_what_is_not_installed_is_named_before_anything_is_built() -> None:
    assert find_spec("torch_tensorrt") is None
    with pytest.raises(ValueError, match=r"torch_tensorrt is not installed; pip install 'torch-tensorrt', or use"):
        check_installed("tensorrt")
    with pytest.raises(ValueError, match="'toy' cannot run on tensorrt: torch_tensorrt is not installed"):
        toy("noise", "tensorrt").start(CPU)
    check_installed("auto")


def test_two_processes_may_export_the_same_at_once(tmp_path: Path) -> None:
    script = (
        "import torch; from teachers import Teacher; torch.manual_seed(0); torch.set_num_threads(1);"
        "t = Teacher(name='test_resnet', img_size=32).build(pretrained=False).start(torch.device('cpu'));"
        "print(t.runtime_note)"
    )
    environment = {"DISTILL_CACHE": str(tmp_path), "PATH": "", "PYTHONPATH": ":".join(["", *sys.path])}
    command = [sys.executable, "-c", script]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    notes = [run.communicate()[0].strip() for run in runs]
    assert len(list((tmp_path / "teachers").iterdir())) == 1
    assert notes == ["onnxruntime"] * 2
