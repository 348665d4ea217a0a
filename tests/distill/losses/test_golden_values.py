"""Golden values of the papers' formulas in float64, and each formula once more, written out slowly."""

import math
import sys

import pytest
import torch
import torch.nn.functional as F

from distill import losses

S = 3 * torch.sin(torch.linspace(-3, 3, 40, dtype=torch.float64).view(4, 10))
T = 4 * torch.cos(torch.linspace(-2, 5, 40, dtype=torch.float64).view(4, 10))
Y = torch.tensor([0, 3, 7, 9])
ES = torch.sin(torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 6))
ET = torch.cos(torch.linspace(0, 3, 32, dtype=torch.float64).view(4, 8))


@pytest.mark.parametrize(
    ("value", "golden"),
    [
        (losses.soft_targets(S, T, temperature=1.0), 1.963964052),
        (losses.soft_targets(S, T, temperature=4.0), 2.747060552),
        (losses.soft_targets(S, T, temperature=3.0) / 10, 0.268692530),  # as DeiT's code normalises
        (losses.hard_targets(S, T), 3.981002379),
        (losses.dkd(S, T, Y, alpha=1.0, beta=8.0, temperature=4.0), 19.422684334),
        (losses.dkd(S, T, Y, alpha=1.0, beta=0.5, temperature=1.0), 1.390519544),
        (losses.dist(S, T, tau=1.0), 3.599836031),
        (losses.dist(S, T, tau=4.0), 63.131960048),
        (losses.ofa(S, T, Y, eps=1.0), 3.604469808),
        (losses.ofa(S, T, Y, eps=1.5), 2.484061273),
        (losses.nkd(S, T, Y, gamma=1.5, temperature=1.0), 5.678948131),
        (losses.soft_targets(losses.standardize(S), losses.standardize(T), temperature=2.0), 1.719705030),
        (losses.bce_targets(S, T), 1.250615697),
        (losses.rkd(ES, ET, distance=25.0, angle=50.0), 0.026251444),
    ],
)
def test_losses_have_their_golden_values(value, golden):
    assert value.item() == pytest.approx(golden, abs=1e-8)


def test_published_defaults_are_the_functions_defaults():
    assert losses.soft_targets(S, T) == losses.soft_targets(S, T, temperature=4.0)
    assert losses.dkd(S, T, Y) == losses.dkd(S, T, Y, alpha=1.0, beta=8.0, temperature=4.0)
    assert losses.dist(S, T) == losses.dist(S, T, beta=1.0, gamma=1.0, tau=1.0)
    assert losses.ofa(S, T, Y) == losses.ofa(S, T, Y, eps=1.0)
    assert losses.nkd(S, T, Y) == losses.nkd(S, T, Y, gamma=1.5, temperature=1.0)
    assert losses.rkd(ES, ET) == losses.rkd(ES, ET, distance=25, angle=50)


def test_dkd_equals_its_published_form_where_that_does_not_overflow():
    alpha, beta, temperature = 0.7, 3.0, 2.0
    own = F.one_hot(Y, 10).bool()
    p, q = (S / temperature).softmax(-1), (T / temperature).softmax(-1)
    binary = [torch.stack([x[own], x.masked_fill(own, 0).sum(-1)], -1) for x in (p, q)]
    tckd = (binary[1] * (binary[1] / binary[0]).log()).sum(-1).mean()
    rest = [((x / temperature) - 1000.0 * own).softmax(-1) for x in (S, T)]
    nckd = (rest[1] * (rest[1] / rest[0].clamp_min(1e-300)).clamp_min(1e-300).log()).masked_fill(own, 0).sum(-1).mean()
    published = temperature**2 * (alpha * tckd + beta * nckd)
    ours = losses.dkd(S, T, Y, alpha=alpha, beta=beta, temperature=temperature)
    assert ours.item() == pytest.approx(published.item(), abs=1e-10)


def test_dkd_of_two_classes_is_soft_targets_for_their_difference_alone():
    s, t = S[:, :2], T[:, :2]
    for beta in (0.0, 8.0):  # among the others there is nothing to order
        ours = losses.dkd(s, t, Y % 2, alpha=1.0, beta=beta, temperature=4.0)
        assert ours.item() == pytest.approx(losses.soft_targets(s, t, temperature=4.0).item(), abs=1e-12)


def test_nkd_by_loops():
    p, q, total = S.softmax(-1), T.softmax(-1), torch.zeros((), dtype=torch.float64)
    for i, y in enumerate(Y.tolist()):
        others = [k for k in range(10) if k != y]
        rest_s, rest_t = (S[i, others] / 2).softmax(0), (T[i, others] / 2).softmax(0)
        total -= q[i, y] * p[i, y].log() + 1.5 * 4 * (rest_t * rest_s.log()).sum()
    assert losses.nkd(S, T, Y, gamma=1.5, temperature=2.0).item() == pytest.approx((total / 4).item(), abs=1e-12)


def test_ofa_with_exponent_1_is_the_cross_entropy_with_the_teachers_probabilities():
    assert losses.ofa(S, T, Y, eps=1.0).item() == pytest.approx(F.cross_entropy(S, T.softmax(-1)).item(), abs=1e-12)


def test_dist_by_numpys_correlation():
    import numpy as np

    p, q = (S / 2).softmax(-1).numpy(), (T / 2).softmax(-1).numpy()
    rows = np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(p, q, strict=True)])
    columns = np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(p.T, q.T, strict=True)])
    expected = 4 * (0.5 * (1 - rows) + 2 * (1 - columns))
    # The authors' 1e-8 in the denominator is a hundred-thousandth for classes that are hardly ever likely.
    assert losses.dist(S, T, beta=0.5, gamma=2.0, tau=2.0).item() == pytest.approx(expected, abs=1e-4)


def test_standardized_logits_have_mean_0_and_unbiased_deviation_1():
    z = losses.standardize(S)
    assert z.mean(-1).abs().max() < 1e-12
    assert torch.allclose(z.std(-1), torch.ones(4, dtype=torch.float64), atol=1e-6)
    assert losses.standardize(torch.zeros(2, 5)).abs().max() == 0


def test_bce_targets_by_hand():
    s, t = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    assert losses.bce_targets(s, t).item() == pytest.approx(math.log(2))  # sigmoid(0) costs ln 2 whatever the target
    by_hand = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))  # the entropy: sigmoid(ln 3) is 3/4, and so is s
    assert losses.bce_targets(t[:, :1], t[:, :1], multi_label=True).item() == pytest.approx(by_hand)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_attention_transfer_by_hand():
    fs = torch.tensor([3.0, 0.0]).view(1, 1, 1, 2)  # attention (1, 0)
    ft = torch.tensor([[1.0, 1.0], [1.0, 1.0]]).view(1, 2, 1, 2)  # attention (1, 1) / √2
    expected = ((1 - 1 / math.sqrt(2)) ** 2 + 0.5) / 2
    assert losses.attention_transfer(fs, ft).item() == pytest.approx(expected, rel=1e-6)


def test_similarity_preserving_by_loops():
    fs, ft = random(3, 2, 2, 2), random(3, 5, 1, 3, seed=1)

    def gram(grid):
        rows = [torch.stack([(a * b).sum() for b in grid]) for a in grid]
        return torch.stack([row / row.norm() for row in rows])

    expected = (gram(ft) - gram(fs)).square().sum() / 9
    assert losses.similarity_preserving(fs, ft).item() == pytest.approx(expected.item(), abs=1e-12)


def test_rkd_by_loops():
    es, et = random(5, 3), random(5, 4, seed=1)

    def relations(e):
        far = torch.stack([torch.stack([(a - b).norm() for b in e]) for a in e])
        cosines = torch.zeros(5, 5, 5, dtype=e.dtype)
        for i in range(5):
            for j in range(5):
                for k in range(5):
                    if i not in (j, k):
                        cosines[i, j, k] = F.cosine_similarity(e[j] - e[i], e[k] - e[i], dim=0)
        return far / far[far > 0].mean(), cosines

    (far_s, cos_s), (far_t, cos_t) = relations(es), relations(et)
    expected = 25 * F.smooth_l1_loss(far_s, far_t) + 50 * F.smooth_l1_loss(cos_s, cos_t)
    assert losses.rkd(es, et).item() == pytest.approx(expected.item(), abs=1e-10)


def test_rkds_distances_in_parts_are_those_at_once(monkeypatch):
    es, et = (torch.randn(7, 5, dtype=torch.float64) for _ in range(2))
    found = []
    for at_once in (2**28, 2 * 7 * 5):  # all rows, and two of them
        monkeypatch.setattr(sys.modules[losses.RKD.__module__], "AT_ONCE", at_once)
        embedding = es.clone().requires_grad_()
        value = losses.rkd(embedding, et)
        (gradient,) = torch.autograd.grad(value, embedding)
        found.append((value.detach(), gradient))
    torch.testing.assert_close(found[0], found[1], atol=1e-14, rtol=1e-12)


def test_rkd_bounds_the_images_that_the_angles_use():
    es, et = random(8, 3), random(8, 4, seed=1)
    bounded = losses.rkd(es, et, distance=0.0, angle=50.0, angle_images=5)
    assert bounded == losses.rkd(es[:5], et[:5], distance=0.0, angle=50.0)


def test_manifold_by_loops():
    fs, ft = random(3, 4, 2, 2), random(3, 6, 2, 2, seed=1)

    def tokens(grid):
        return [[token / token.norm() for token in image.flatten(1).T] for image in grid]  # [B][N][C]

    def error(of_s, of_t):
        rows = range(len(of_s))
        return torch.stack([(of_s[i] @ of_s[j] - of_t[i] @ of_t[j]) ** 2 for i in rows for j in rows]).mean()

    s, t = tokens(fs), tokens(ft)
    within = torch.stack([error(s[i], t[i]) for i in range(3)]).mean()
    across = torch.stack([error([i[n] for i in s], [i[n] for i in t]) for n in range(4)]).mean()
    alltogether = error([n for i in s for n in i], [n for i in t for n in i])
    assert losses.manifold(fs, ft, within=4.0, across=0.0, random=0.0).item() == pytest.approx(4 * within.item())
    assert losses.manifold(fs, ft, within=0.0, across=0.1, random=0.0).item() == pytest.approx(0.1 * across.item())
    # Of 12 tokens, 192 are all of them.
    value = losses.manifold(fs, ft, within=0.0, across=0.0, random=0.2)
    assert value.item() == pytest.approx(0.2 * alltogether.item())


def test_manifold_draws_the_tokens_that_the_seed_says():
    fs, ft = random(3, 4, 4, 4), random(3, 6, 4, 4, seed=1)
    one, again, other = (losses.manifold(fs, ft, tokens=7, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_vitkd_parts_by_hand():
    fs, ft = torch.zeros(2, 1, 1, 2), torch.tensor([1.0, 2.0, 3.0, 4.0]).view(2, 1, 1, 2)
    assert losses.squared_error(fs, ft).item() == (1 + 4 + 9 + 16) / 2
    mask = torch.tensor([1.0, 0.0, 0.0, 1.0]).view(2, 1, 1, 2)
    assert losses.masked_squared_error(fs, ft, mask).item() == (1 + 16) / 2


def test_cosine_embedding_by_hand():
    es, et = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[3.0, 3.0], [0.0, 5.0]])
    assert losses.cosine_embedding(es, et).item() == pytest.approx(1 - 1 / (2 * math.sqrt(2)), rel=1e-6)


def test_crd_by_hand():
    # One match that scores 0.5 and two draws that score 0.25 and 0; noise 2 / 4 = 0.5.
    log_scores = torch.tensor([[0.5, 0.25, 0.0]], dtype=torch.float64).log()
    by_hand = -(math.log(0.5 / (1.0 + 1e-7)) + math.log(0.5 / (0.75 + 1e-7)) + math.log(0.5 / (0.5 + 1e-7)))
    assert losses.crd(log_scores, images=4).item() == pytest.approx(by_hand, abs=1e-10)


def test_crd_gradient_equals_finite_differences():
    log_scores = random(3, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: losses.crd(x, images=7), (log_scores,))


@pytest.mark.parametrize(
    ("loss", "one", "other"),
    [
        (losses.soft_targets, (4, 1), (4, 10)),
        (losses.hard_targets, (1, 10), (4, 10)),
        (losses.bce_targets, (4, 10), (10,)),
        (losses.dist, (4, 10), (4, 9)),
        (losses.hint, (2, 3, 7, 7), (2, 3, 1, 1)),
        (losses.squared_error, (2, 3, 7, 7), (2, 3, 1, 1)),
        (losses.cosine_embedding, (2, 1), (2, 5)),
    ],
)
def test_shapes_that_would_be_broadcast_are_refused(loss, one, other):
    with pytest.raises(ValueError, match="use two"):
        loss(torch.zeros(one), torch.zeros(other))
