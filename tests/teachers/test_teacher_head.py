"""A head fitted on features: near the best possible, at the minimum of its loss, with an honest choice of l2."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from teachers.head import L2_GRID, Head, fit_head, held_out, objective


def mixture(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Four Gaussians in 20 dimensions with unit covariance: rows, labels, and what Bayes' rule says of each row."""
    means = 0.8 * torch.randn(4, 20, generator=torch.Generator().manual_seed(7))
    labels = torch.randint(4, (rows,), generator=generator)
    x = means[labels] + torch.randn(rows, 20, generator=generator)
    return x, labels, torch.cdist(x, means).argmin(1)


def newton(x: Tensor, labels: Tensor, classes: int, l2: float) -> Tensor:
    """The minimum of the loss in float64 by Newton's method, [K, D + 1]: another way to the same place."""
    x = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], 1)
    onehot = torch.nn.functional.one_hot(labels, classes).double()
    penalty = l2 * torch.ones(classes, x.shape[1], dtype=torch.float64)
    penalty[:, -1] = 0
    w = torch.zeros_like(penalty)
    for _ in range(30):
        p = (x @ w.T).softmax(1)
        gradient = (p - onehot).T @ x / len(x) + penalty * w
        curvature = p.diag_embed() - p[:, :, None] * p[:, None]  # [N, K, K]
        hessian = torch.einsum("nkl,nd,ne->kdle", curvature, x, x).reshape(w.numel(), -1) / len(x)
        # Biases may shift together for free; pinv takes the shift of least norm, none.
        w = w - (torch.linalg.pinv(hessian + penalty.flatten().diag()) @ gradient.flatten()).view_as(w)
    return w


def test_it_is_as_right_as_bayes_rule() -> None:
    generator = torch.Generator().manual_seed(1)
    x, labels, _ = mixture(4000, generator)
    head = fit_head(5 * x + 3, labels, num_classes=4)  # neither centred nor of unit size
    x, labels, bayes = mixture(20000, generator)
    best = float((bayes == labels).double().mean())
    assert 0.9 < best < 0.99
    top1 = float((head(5 * x + 3).argmax(1) == labels).double().mean())
    assert best - top1 < 0.005
    assert abs(head.heldout_top1 - best) < 0.03


def test_it_equals_newtons_method() -> None:
    x, labels, _ = mixture(500, torch.Generator().manual_seed(2))
    x = x[:, :4] * torch.tensor([1.0, 10.0, 0.1, 3.0]) + 2
    head = fit_head(x, labels, num_classes=4, l2=[0.02])
    mean, std = x.double().mean(0), x.double().std(0, correction=0)
    exact = newton((x - mean) / std, labels, 4, 0.02)
    weight = exact[:, :-1] / std
    torch.testing.assert_close(head.weight.double() * std, exact[:, :-1], atol=2e-4, rtol=0)
    torch.testing.assert_close(
        head(x).double(), x.double() @ weight.T + exact[:, -1] - weight @ mean, atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0])
def test_the_gradient_is_zero_in_float64(l2: float) -> None:
    x, labels, _ = mixture(3000, torch.Generator().manual_seed(3))
    head = fit_head(x, labels, num_classes=4, l2=[l2])
    mean, std = x.double().mean(0), x.double().std(0, correction=0)
    weight, bias = head.weight.double(), head.bias.double()
    parameters = torch.cat([weight * std, (bias + weight @ mean)[:, None]], 1).requires_grad_()
    loss = objective((x - mean) / std, labels, l2, parameters)
    by_hand = -torch.log_softmax(x.double() @ weight.T + bias, 1)[torch.arange(3000), labels].mean()
    assert loss.item() == pytest.approx(float(by_hand + l2 / 2 * (weight * std).square().sum()), abs=1e-9)
    (gradient,) = torch.autograd.grad(loss, parameters)
    assert float(gradient.abs().max()) < 1e-4  # it begins at 0.3; float32 sees no smaller change of the loss


def noisy(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(rows, 60, generator=generator)
    signal = 0.8 * x[:, 0] + torch.randn(rows, generator=generator)
    return x, (signal > 0).long()


def test_noise_chooses_a_middling_l2() -> None:
    x, labels = noisy(300)
    chosen, weak, strong = (fit_head(x, labels, num_classes=2, l2=l2) for l2 in (L2_GRID, L2_GRID[:1], L2_GRID[-1:]))
    assert chosen.l2 == 0.1
    assert chosen.heldout_nll < min(weak.heldout_nll, strong.heldout_nll) - 0.04


def test_views_of_one_image_on_both_sides_would_choose_a_weaker_l2() -> None:
    x, labels = noisy(200)
    x, labels, groups = x.repeat(6, 1), labels.repeat(6), torch.arange(200).repeat(6)
    x = x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    apart, leaking = fit_head(x, labels, num_classes=2, groups=groups), fit_head(x, labels, num_classes=2)
    assert (apart.l2, leaking.l2) == (0.3, 0.03)
    assert leaking.heldout_nll < apart.heldout_nll - 0.05  # and would boast of it


def test_whole_groups_are_held_out() -> None:
    groups = torch.arange(1000).repeat(2)[torch.randperm(2000)] * 3 - 7
    held = held_out(groups, seed=0)
    assert int(held.sum()) == 200
    assert not set(groups[held].tolist()) & set(groups[~held].tolist())
    assert torch.equal(held, held_out(groups, seed=0))
    assert not torch.equal(held, held_out(groups, seed=1))
    assert int(held_out(torch.tensor([4, 9]), seed=0).sum()) == 1


def test_it_is_the_same_every_time() -> None:
    x, labels = noisy(400)
    with torch.no_grad():
        first = fit_head(x, labels, num_classes=2, seed=3)
    again = fit_head(x, labels, num_classes=2, seed=3)
    assert torch.equal(first.weight, again.weight)
    assert torch.equal(first.bias, again.bias)
    assert first.heldout_nll == again.heldout_nll


def test_features_that_do_not_vary_are_ignored() -> None:
    x, labels = noisy(300)
    x[:, 5] = 1e3
    head = fit_head(x, labels, num_classes=3)  # and one class has no row
    assert torch.isfinite(head.weight).all()
    assert float(head.weight[:, 5].abs().max()) < 1e-4
    assert not (head(x).argmax(1) == 2).any()


def test_saved_and_loaded(tmp_path: Path) -> None:
    head = Head(torch.randn(3, 5), torch.randn(3), l2=0.03, heldout_top1=0.1 + 0.2, heldout_nll=0.7)
    head.save(tmp_path / "new" / "head.safetensors", {"teacher": "test_resnet"})
    back = Head.load(tmp_path / "new" / "head.safetensors")
    assert torch.equal(back.weight, head.weight)
    assert torch.equal(back.bias, head.bias)
    assert (back.l2, back.heldout_top1, back.heldout_nll) == (0.03, 0.1 + 0.2, 0.7)
    assert back.metadata == {"teacher": "test_resnet"}
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["head.safetensors"]
    (tmp_path / "another").touch()
    assert (tmp_path / "new" / "head.safetensors").stat().st_mode == (tmp_path / "another").stat().st_mode


def test_labels_and_groups_that_cannot_be() -> None:
    x = torch.randn(4, 2)
    with pytest.raises(ValueError, match="labels go from 0 to 3 but there are 3 classes"):
        fit_head(x, torch.arange(4), num_classes=3)
    with pytest.raises(ValueError, match="at least two groups"):
        fit_head(x, torch.arange(4), num_classes=4, groups=torch.zeros(4, dtype=torch.long))


def test_a_damaged_head_is_named(tmp_path: Path) -> None:
    file = tmp_path / "head.safetensors"
    Head(torch.randn(3, 2), torch.randn(3), l2=0.1, heldout_top1=0.5, heldout_nll=1.0).save(file)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(
        ValueError, match=r"head\.safetensors is no whole head \(.*\); remove it, and it is fitted again"
    ):
        Head.load(file)
