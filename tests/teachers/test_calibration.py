"""Calibration error and temperature: equal to numbers by hand, and to what generated the data."""

import math

import pytest
import torch
from torch import Tensor

from teachers.calibration import TEMPERATURES, calibration_error, fit_temperature, reliability, temperature_of_use


def of_probability(p: list[float]) -> Tensor:
    """Logits of two classes, the first of these probabilities."""
    first = torch.tensor(p, dtype=torch.float64)
    return torch.stack([first.log(), (1 - first).log()], 1)


def test_the_error_by_hand() -> None:
    # Bins of 1/15: 0.81 and 0.83 lie in the 13th (0.8, 0.8667], 0.6 in the 9th's end (0.5333, 0.6], 0.95 in the 15th.
    logits, labels = of_probability([0.81, 0.83, 0.599, 0.95]), torch.tensor([0, 1, 0, 0])
    # |(1 + 0) - (0.81 + 0.83)| + |1 - 0.599| + |1 - 0.95| over 4 rows
    assert calibration_error(reliability(logits, labels)) == pytest.approx((0.64 + 0.401 + 0.05) / 4, abs=1e-6)


def test_tables_of_parts_add_up_and_certainty_is_in_the_last_bin() -> None:
    logits, labels = 30 * torch.randn(1000, 7), torch.randint(7, (1000,))
    parts = reliability(logits[:300], labels[:300]) + reliability(logits[300:], labels[300:])
    torch.testing.assert_close(parts, reliability(logits, labels))
    table = reliability(torch.tensor([[100.0, 0.0]]), torch.tensor([0]))
    assert table[-1].tolist() == [1.0, 1.0, 1.0]
    assert calibration_error(table) == 0.0
    assert calibration_error(torch.zeros(15, 3)) is None


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(true: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(20_000, 10, generator=generator)
    labels = torch.multinomial((logits / true).softmax(-1), 1, generator=generator).squeeze(1)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(true, rel=0.03)
    # At the minimum: neighbours are worse, and the derivative of the likelihood is zero.
    scale = torch.tensor(1 / found, dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(logits.double() * scale, labels)
    (slope,) = torch.autograd.grad(loss, scale)
    assert abs(float(slope)) < 1e-8
    error = [calibration_error(reliability(logits / t, labels)) for t in (found, 1.5 * found)]
    assert error[0] is not None
    assert error[1] is not None
    assert error[0] < 0.01 < error[1]


def test_one_row_by_hand() -> None:
    # p of the label is sigmoid(2 / T) in three of four rows: the best T makes it 3/4, so 2 / T = ln 3.
    logits, labels = torch.tensor([[2.0, 0.0]]).repeat(4, 1), torch.tensor([0, 0, 0, 1])
    assert fit_temperature(logits, labels) == pytest.approx(2 / math.log(3), rel=1e-8)


def test_processes_with_parts_find_the_same() -> None:
    logits, labels = torch.randn(101, 5), torch.randint(5, (101,))
    whole = fit_temperature(logits, labels)
    doubled = fit_temperature(logits, labels, lambda sums: sums + sums)  # as from two processes of the same rows
    assert doubled == pytest.approx(whole, rel=1e-8)


def test_where_none_is_best_it_ends_at_the_bound() -> None:
    right = torch.eye(3)
    assert fit_temperature(right, torch.arange(3)) == pytest.approx(TEMPERATURES[0], rel=1e-6)
    assert fit_temperature(right, torch.tensor([1, 2, 0])) == pytest.approx(TEMPERATURES[1], rel=1e-6)


def test_rows_that_are_not_finite_have_no_confidence() -> None:
    table = reliability(torch.tensor([[float("nan"), 0.0], [0.0, 0.0]]), torch.tensor([1, 0]))
    assert table.sum(0)[:2].tolist() == [2.0, 0.5]
    assert table[0].tolist() == [1.0, 0.0, 0.0]


def test_where_every_row_is_right_nothing_is_divided() -> None:
    logits = 3 * torch.eye(4)
    assert temperature_of_use(logits, torch.arange(4)) == 1.0
    wrong = torch.tensor([0, 1, 2, 2])
    assert temperature_of_use(logits, wrong) == fit_temperature(logits, wrong) != 1.0
