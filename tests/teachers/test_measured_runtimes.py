"""The table of runtimes: each beside the model as timm builds it, and why one is missing."""

import torch

from teachers.runtime.measure import PLAIN, Measure


def test_a_teacher_has_a_row_for_each_runtime() -> None:
    measure = Measure(runtimes=("eager", "tensorrt"), img_size=32, batch_size=2, rounds=3, layers=(1,))
    plain, eager, tensorrt = measure.rows("test_resnet", torch.rand(2, 3, 32, 32))
    assert plain[:2] == ("`test_resnet`, random weights", PLAIN)
    assert plain[3:] == ("1.00", "0e+00")
    assert eager[1] == "eager, BatchNorm folded"
    assert 0 < float(eager[4]) < 1e-5
    assert "torch_tensorrt is not installed" in tensorrt[2]
