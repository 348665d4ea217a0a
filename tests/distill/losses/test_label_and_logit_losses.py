"""Labels, soft and hard targets and hints by hand, which head is read, and what is said of a loss that does not fit."""

import math

import pytest
import torch
import torch.nn.functional as F

from distill.losses import (
    HardTargets,
    Hint,
    SoftTargets,
    cross_entropy,
    hard_targets,
    hint,
    match_size,
    soft_targets,
    standardize_channels,
)
from students import Outputs, Shapes

S = 3 * torch.sin(torch.linspace(-3, 3, 40, dtype=torch.float64).view(4, 10))
T = 4 * torch.cos(torch.linspace(-2, 5, 40, dtype=torch.float64).view(4, 10))
Y = torch.tensor([0, 3, 7, 9])

STUDENT = Shapes(10, False, 6, dict.fromkeys(range(4), (6, 7, 7)))
DISTILLED = Shapes(10, True, 6, dict.fromkeys(range(4), (6, 7, 7)))
TEACHER = Shapes(10, False, 8, {0: (4, 14, 14), 1: (8, 7, 7), 2: (16, 4, 4)})


def test_soft_targets_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2).
    s, t = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert soft_targets(s, t, temperature=1.0).item() == pytest.approx(by_hand, abs=1e-12)


def test_cross_entropy_by_hand_with_smoothing_and_with_mixed_labels():
    logits = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)  # p = (3/4, 1/4)
    right, wrong = -math.log(0.75), -math.log(0.25)
    assert cross_entropy(logits, torch.tensor([0])).item() == pytest.approx(right)
    smooth = cross_entropy(logits, torch.tensor([0]), smoothing=0.2).item()
    assert smooth == pytest.approx(0.9 * right + 0.1 * wrong)
    mixed = cross_entropy(logits, torch.tensor([[0.3, 0.7]], dtype=torch.float64)).item()
    assert mixed == pytest.approx(0.3 * right + 0.7 * wrong)


def test_hint_by_hand():
    fs, ft = torch.tensor([1.0, 2.0]).view(1, 1, 1, 2), torch.tensor([3.0, 1.0]).view(1, 1, 1, 2)
    assert hint(fs, ft).item() == pytest.approx((4 + 1) / 2)


def test_standardized_channels_equal_batch_norm_without_affine():
    grid = torch.randn(5, 3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 7 + 2
    expected = F.batch_norm(grid, None, None, training=True, eps=1e-5)
    assert torch.allclose(standardize_channels(grid), expected, atol=1e-12)
    assert standardize_channels(torch.full((2, 1, 3, 3), 5.0)).abs().max() == 0


def test_match_size_averages_the_larger_grid_down_to_the_smaller():
    large = torch.arange(16.0).view(1, 1, 4, 4)
    small = torch.zeros(1, 3, 2, 2)
    fs, ft = match_size(large, small)
    assert fs.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert ft is small
    assert match_size(small, large)[1].flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


def test_hint_gradient_equals_finite_differences_through_projection_and_resize():
    generator = torch.Generator().manual_seed(0)
    student, teacher = Shapes(2, False, 3, {0: (3, 2, 2)}), Shapes(2, False, 4, {0: (4, 4, 4)})
    bound = Hint().bind(student, teacher).double()
    grid = torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    target = Outputs(T, grids={0: torch.randn(2, 4, 4, 4, generator=generator, dtype=torch.float64)})
    assert torch.autograd.gradcheck(lambda g: bound(Outputs(S, grids={0: g}), target, None), (grid,))
    assert [p.shape for p in bound.parameters()] == [(4, 3, 1, 1), (4,)]


def test_hint_is_the_mean_square_of_the_standardised_teacher_when_the_projection_gives_zero():
    bound = Hint(pairs=((0, 1), (-1, 2))).bind(STUDENT, TEACHER)
    for parameter in bound.parameters():
        torch.nn.init.zeros_(parameter)
    generator = torch.Generator().manual_seed(0)
    grids = {1: torch.randn(8, 8, 7, 7, generator=generator) * 9, 2: torch.randn(8, 16, 4, 4, generator=generator) + 4}
    student = Outputs(S, grids={0: torch.randn(8, 6, 7, 7), 3: torch.randn(8, 6, 7, 7)})
    # Each pair's standardised teacher has variance 1, so each pair gives 1.
    assert bound(student, Outputs(T, grids=grids), None).item() == pytest.approx(2.0, abs=1e-3)


def test_auto_reads_the_distillation_token_where_there_is_one():
    own = Outputs(S, token_logits=S.flip(1))
    teacher = Outputs(T)
    assert HardTargets().bind(DISTILLED, TEACHER)(own, teacher, None) == hard_targets(S.flip(1), T)
    assert HardTargets().bind(STUDENT, TEACHER)(own, teacher, None) == hard_targets(S, T)


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "message"),
    [
        (HardTargets(head="token"), STUDENT, TEACHER, "the student has none; use --student.distilled"),
        (SoftTargets(), STUDENT, Shapes(1000, False, 8, {}), "student has 10 classes but the teacher has 1000"),
        (SoftTargets(), STUDENT, None, "reads a teacher but the recipe has none"),
        (SoftTargets(temperature=0.0), STUDENT, TEACHER, "temperature is 0.0; use a number above 0"),
        (Hint(pairs=((9, 0),)), STUDENT, TEACHER, "in the student, there is no layer 9; it has 4 layers, 0 to 3"),
        (Hint(pairs=((0, 5),)), STUDENT, TEACHER, "in the teacher, there is no layer 5; it has 3 layers, 0 to 2"),
        (Hint(pairs=()), STUDENT, TEACHER, "has no pairs"),
        (Hint(), STUDENT, Shapes(10, False, 8, {}), "hands out none; use a loss on logits"),
    ],
)
def test_a_loss_that_does_not_fit_says_so(loss, student, teacher, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        loss.bind(student, teacher)
