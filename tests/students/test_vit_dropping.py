"""Dropout and drop-path of the model: their expectation, their rates, what they leave."""

import pytest
import torch

from students.vit import DropPath
from tests.students.small import SMALL


def test_drop_path_keeps_the_expectation() -> None:
    drop, x = DropPath(0.25), torch.ones(40_000, 1, 1)
    dropped = drop.train()(torch.zeros_like(x), x)
    assert sorted(dropped.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)  # its deviation is 0.002
    assert dropped.mean().item() == pytest.approx(1, abs=0.015)
    assert torch.equal(drop.eval()(torch.zeros_like(x), x), x)
    one_sample = drop.train()(torch.zeros(50, 7, 3), torch.ones(50, 7, 3)).flatten(1)
    assert torch.equal(one_sample.amin(1), one_sample.amax(1))


def test_drop_path_rises_linearly() -> None:
    model = SMALL.override(drop_path_rate=0.3, depth=4).build()
    assert [block.drop_path.rate for block in model.blocks] == pytest.approx([0, 0.1, 0.2, 0.3])  # pyright: ignore[reportAttributeAccessIssue]


def test_dropped_path_leaves_the_sample_as_it_was() -> None:
    block = SMALL.override(drop_path_rate=0.9, depth=2).build().blocks[1].train()
    x = torch.randn(200, 4, 24)
    same = (block(x) == x).flatten(1).all(1).float().mean().item()
    assert same == pytest.approx(0.9**2, abs=0.09)  # both branches dropped; its deviation is 0.028


def test_dropout_keeps_the_expectation_of_the_head() -> None:
    model = SMALL.override(drop_rate=0.5).build()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        calm = model.eval()(images)
        mean = model.train()(images.expand(4000, -1, -1, -1)).mean(0, keepdim=True)
    torch.testing.assert_close(mean, calm, atol=0.01, rtol=0)
