"""What every loss function has: finite values and gradients whatever comes, no gradient for the teacher, its floor."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from distill import losses

# Each as a function of student logits, teacher logits and labels.
LOGITS = {
    "soft_targets": lambda s, t, y: losses.soft_targets(s, t),
    "standardised": lambda s, t, y: losses.soft_targets(losses.standardize(s), losses.standardize(t), temperature=2.0),
    "hard_targets": lambda s, t, y: losses.hard_targets(s, t),
    "bce_targets": lambda s, t, y: losses.bce_targets(s, t),
    "bce_targets of several labels": lambda s, t, y: losses.bce_targets(s, t, multi_label=True),
    "dkd": losses.dkd,
    "nkd": losses.nkd,
    "ofa": losses.ofa,
    "ofa 1.5": lambda s, t, y: losses.ofa(s, t, y, eps=1.5),
    "dist": lambda s, t, y: losses.dist(s, t, gamma=0.0),
    "dist of columns": lambda s, t, y: losses.dist(s, t, beta=0.0, gamma=1.0),
}
GRIDS = {
    "hint": losses.hint,
    "attention_transfer": losses.attention_transfer,
    "similarity_preserving": losses.similarity_preserving,
    "manifold": lambda fs, ft: losses.manifold(fs, ft, tokens=5),
    "rkd": lambda fs, ft: losses.rkd(fs.flatten(1), ft.flatten(1)),
    "cosine_embedding": lambda fs, ft: losses.cosine_embedding(fs.flatten(1), ft.flatten(1)),
    "squared_error": losses.squared_error,
    "masked_squared_error": lambda fs, ft: losses.masked_squared_error(fs, ft, torch.ones_like(ft[:, :1])),
}
SAME_WIDTH = {"hint", "cosine_embedding", "squared_error", "masked_squared_error"}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
KINDS = ["normal", "constant", "zero", "huge", "small", "one row", "first zero"]


def make(kind: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Numbers of a kind: extreme ones are ±200, constant ones are all 3, of one row all rows are the same."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    extreme = {
        "normal": x,
        "constant": torch.full(shape, 3.0),
        "zero": torch.zeros(shape),
        "huge": 200 * x.sign(),
        "small": 1e-3 * x,
        "one row": x[:1].expand(shape),
        "first zero": torch.cat([0 * x[:1], x[1:]]),
    }
    return extreme[kind].to(dtype).clone().requires_grad_()


cases = st.fixed_dictionaries(
    {
        "batch": st.integers(2, 6),
        "classes": st.integers(2, 9),
        "kinds": st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
        "dtypes": st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
        "seed": st.integers(0, 10_000),
    }
)
grid_cases = st.fixed_dictionaries(
    {
        "batch": st.integers(2, 4),
        "shape": st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)),
        "kinds": st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
        "dtypes": st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
        "seed": st.integers(0, 10_000),
    }
)


def check_finite(value: torch.Tensor, student: torch.Tensor, teacher: torch.Tensor) -> None:
    assert value.shape == ()
    assert value.dtype in (torch.float32, torch.float64)
    assert torch.isfinite(value)
    value.backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().max() < 1e6  # bounded: a clipped step must not be made of one constant row
    assert teacher.grad is None


@pytest.mark.parametrize("name", LOGITS)
@given(case=cases)
def test_logit_losses_are_finite_and_leave_the_teacher_alone(name, case):
    shape = (case["batch"], case["classes"])
    s = make(case["kinds"][0], shape, case["seed"], case["dtypes"][0])
    t = make(case["kinds"][1], shape, case["seed"] + 1, case["dtypes"][1])
    y = torch.arange(case["batch"]) % case["classes"]
    check_finite(LOGITS[name](s, t, y), s, t)


@pytest.mark.parametrize("name", GRIDS)
@given(case=grid_cases)
def test_grid_losses_are_finite_and_leave_the_teacher_alone(name, case):
    shape = (case["batch"], *case["shape"])
    wider = shape if name in SAME_WIDTH else (shape[0], shape[1] + 2, *shape[2:])
    fs = make(case["kinds"][0], shape, case["seed"], case["dtypes"][0])
    ft = make(case["kinds"][1], wider, case["seed"] + 1, case["dtypes"][1])
    # Sums over elements of numbers of ±200 are large by themselves.
    check_finite(GRIDS[name](fs, ft) / (1 if "squared" not in name else 100), fs, ft)


@pytest.mark.parametrize("name", [name for name in LOGITS if name != "dist of columns"])
@given(case=cases)
def test_logit_losses_do_not_depend_on_the_size_of_the_batch(name, case):
    shape = (case["batch"], case["classes"])
    s, t = (make(kind, shape, case["seed"] + i, torch.float64) for i, kind in enumerate(case["kinds"]))
    y = torch.arange(case["batch"]) % case["classes"]
    once = LOGITS[name](s, t, y)
    twice = LOGITS[name](torch.cat([s, s]), torch.cat([t, t]), torch.cat([y, y]))
    assert torch.isclose(once, twice, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["attention_transfer", "hint", "cosine_embedding", "squared_error"])
@given(case=grid_cases)
def test_grid_losses_that_compare_no_images_do_not_depend_on_the_size_of_the_batch(name, case):
    shape = (case["batch"], *case["shape"])
    fs, ft = (make(kind, shape, case["seed"] + i, torch.float64) for i, kind in enumerate(case["kinds"]))
    once, twice = GRIDS[name](fs, ft), GRIDS[name](torch.cat([fs, fs]), torch.cat([ft, ft]))
    assert torch.isclose(once, twice, rtol=1e-9, atol=1e-9)


@given(case=cases)
def test_divergences_are_0_where_the_student_says_what_its_teacher_says(case):
    x = make(case["kinds"][0], (case["batch"], case["classes"]), case["seed"], torch.float64)
    y = torch.arange(case["batch"]) % case["classes"]
    for name in ("soft_targets", "standardised", "dkd"):
        assert LOGITS[name](x, x, y).abs() < 1e-9
    x = make("normal", (case["batch"] + 4, 9), case["seed"], torch.float64)
    assert losses.dist(x, x).abs() < 1e-5  # by the authors' 1e-8 under the fraction


@given(case=grid_cases)
def test_grid_losses_are_0_where_the_grids_are_the_same(case):
    x = make("normal", (case["batch"], *case["shape"]), case["seed"], torch.float64)
    for name, loss in GRIDS.items():
        assert loss(x, x).abs() < 1e-9, name


@given(case=cases)
def test_cross_entropies_have_the_entropy_of_the_teacher_as_their_floor(case):
    t = make("normal", (case["batch"], case["classes"]), case["seed"], torch.float64).detach()
    y = torch.arange(case["batch"]) % case["classes"]
    p = t.softmax(-1)
    entropy = -(p * p.log()).sum(-1).mean()
    assert torch.isclose(losses.ofa(t, t, y, eps=1.0), entropy, atol=1e-12)
    binary = F.binary_cross_entropy(p, p)
    assert torch.isclose(losses.bce_targets(p.logit(), t), binary, atol=1e-9)
    assert losses.ofa(t + torch.randn(t.shape, dtype=t.dtype), t, y, eps=1.0) >= entropy - 1e-12


@pytest.mark.parametrize("name", LOGITS)
def test_gradients_of_logit_losses_equal_finite_differences(name):
    s, t = (make("normal", (4, 6), seed, torch.float64) for seed in (0, 1))
    y = torch.tensor([0, 3, 5, 2])
    assert torch.autograd.gradcheck(lambda s: LOGITS[name](3 * s, t, y), (s,))


@pytest.mark.parametrize("name", GRIDS)
def test_gradients_of_grid_losses_equal_finite_differences(name):
    fs, ft = (make("normal", (3, 2, 3, 4), seed, torch.float64) for seed in (0, 1))
    assert torch.autograd.gradcheck(lambda fs: GRIDS[name](fs, ft), (fs,))


@pytest.mark.parametrize("name", ["dkd", "nkd", "ofa"])
def test_of_mixed_labels_the_largest_share_is_the_target(name):
    s, t = (make("normal", (3, 4), seed, torch.float64) for seed in (0, 1))
    mixed = torch.tensor([[0.6, 0.4, 0, 0], [0, 0.1, 0, 0.9], [0, 0, 1.0, 0]])
    assert LOGITS[name](s, t, mixed) == LOGITS[name](s, t, torch.tensor([0, 3, 2]))


@pytest.mark.parametrize("name", LOGITS | GRIDS)
def test_autocast_does_not_change_the_arithmetic(name):
    shape = (4, 6) if name in LOGITS else (4, 2, 3, 4)
    s, t = (make("normal", shape, seed, torch.float32) for seed in (0, 1))
    loss = (lambda s, t: LOGITS[name](s, t, torch.tensor([0, 3, 5, 2]))) if name in LOGITS else GRIDS[name]
    plain = loss(s, t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(s, t) == plain
