"""The memory of a forward is that of the tensors that are alive at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from distill.compare.peak import peak_bytes, peak_bytes_of_onnx

BATCH, WIDE = 64, 1000


@torch.no_grad()
@pytest.mark.parametrize("inplace", [False, True])
def test_peak_of_two_linear_layers_by_hand(inplace):
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, WIDE), nn.ReLU(inplace=inplace), nn.Linear(WIDE, 10))
    activation, logits = 4 * BATCH * WIDE, 4 * BATCH * 10
    # Before and behind the ReLU are alive together; in place they are one, and the logits beside it are the most.
    expected = activation + logits if inplace else 2 * activation
    x = torch.randn(BATCH, 3, 4, 4)
    assert [peak_bytes(model, x) for _ in range(2)] == [expected] * 2


@torch.no_grad()
def test_peak_grows_with_the_batch_and_holds_the_widest_layer():
    from students import ViTConfig

    config = ViTConfig(img_size=28, patch_size=7, in_chans=1, num_classes=10, embed_dim=64, depth=2, num_heads=2)
    model = config.build().eval()
    small, large = (peak_bytes(model, torch.randn(batch, 1, 28, 28)) for batch in (16, 64))
    assert small is not None
    assert large is not None
    hidden = 4 * 64 * 17 * 4 * 64  # the widest: float32 of 64 images, 17 tokens, four times 64 numbers
    assert 2 * hidden <= large <= 4 * hidden  # before and behind the GELU, and the tokens beside them
    assert large == pytest.approx(4 * small, rel=0.05)


@pytest.mark.parametrize("batch", ["batch", 16])
def test_an_onnx_file_takes_at_least_what_it_answers(tmp_path, batch):
    import onnx
    from onnx import TensorProto, helper

    sides = (3, 128, 128)
    graph = helper.make_graph(
        [helper.make_node("Exp", ["x"], ["y"])],
        "exp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *sides])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, *sides])],
    )
    file = tmp_path / "exp.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), file)
    answer = 4 * (64 if batch == "batch" else 16) * int(np.prod(sides))  # 12.6 or 3.1 MB
    found = peak_bytes_of_onnx(file, (64, *sides))
    assert found is not None
    assert 0.95 * answer <= found <= 4 * answer + 8_000_000


def test_a_file_that_does_not_run_has_no_peak(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"")
    assert peak_bytes_of_onnx(tmp_path / "x.onnx", (64, 3, 4, 4)) is None
