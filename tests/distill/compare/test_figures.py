"""Every figure of a comparison against another implementation of it, or by hand."""

import io
import math
import pickle
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, confusion_matrix, log_loss

from distill.compare.calibrate import KeptLogits, half_of, measures, probabilistic, scaled
from distill.compare.cka import MinibatchCKA, hsic
from distill.compare.confusion import Pairs, confusion
from distill.compare.gallery import Disagreements
from distill.compare.ranks import rank_correlation
from distill.compare.significance import EXACT_BELOW, mcnemar
from distill.compare.tally import Tally


def same(sums):
    return sums


def spearman(a, b) -> float:
    result: Any = scipy.stats.spearmanr(a, b)
    return result.statistic


def some(images=400, classes=7, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (images,), generator=generator)
    logits = scale * torch.randn(images, classes, generator=generator)
    return logits + 2 * torch.nn.functional.one_hot(labels, classes), labels


@given(b=st.integers(0, 300), c=st.integers(0, 300))
def test_mcnemar_is_the_binomial_test_of_the_images_on_which_one_is_right(b, c):
    expected = scipy.stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_many_images_is_edwards_chi_square():
    b, c = 620, 480
    assert b + c >= EXACT_BELOW
    expected = scipy.stats.chi2.sf((abs(b - c) - 1) ** 2 / (b + c), df=1)
    assert mcnemar(b, c) == pytest.approx(expected, rel=1e-12)
    assert mcnemar(b, c) == pytest.approx(scipy.stats.binomtest(b, b + c, 0.5).pvalue, rel=0.03)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 12), ties=st.booleans())
def test_rank_correlation_is_scipys(seed, classes, ties):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 5, classes))
    if ties:
        a, b = np.round(a), np.round(b)
    ours = rank_correlation(torch.from_numpy(a), torch.from_numpy(b))
    for value, x, y in zip(ours.tolist(), a, b, strict=True):
        constant = len(set(x)) == 1 or len(set(y)) == 1
        expected = 0.0 if constant else spearman(x, y)
        assert value == pytest.approx(expected, abs=1e-12)


def test_hsic_is_the_mean_over_all_quadruples_of_images():
    """The definition of the unbiased estimator, as a U-statistic (Song et al. 2012, theorem 4)."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(6, 3, generator=generator).double(), torch.randn(6, 5, generator=generator).double()
    k, m = (x @ x.T).fill_diagonal_(0), (y @ y.T).fill_diagonal_(0)
    terms = [float(k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])) for i, j, q, r in permutations(range(6), 4)]
    assert float(hsic(k, m)) == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def test_cka_of_one_batch_is_that_of_the_definition_and_of_equal_layers_one():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(40, 6, generator=generator) + 100  # a level that all images share changes nothing
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    other = torch.randn(40, 4, 2, 2, generator=generator)
    cka = MinibatchCKA(1, 2)
    cka.add([x], [3 * (x - 100) @ rotation, other])
    alike, unlike = cka.values()[0]
    assert alike == pytest.approx(1.0, abs=1e-5)
    grams = [(z @ z.T).fill_diagonal_(0) for z in ((x - 100).double(), other.flatten(1).double())]
    expected = float(hsic(grams[0], grams[1]) / (hsic(grams[0], grams[0]) * hsic(grams[1], grams[1])).sqrt())
    assert unlike == pytest.approx(expected, abs=1e-5)
    assert unlike is not None
    assert abs(unlike) < 0.15


def test_cka_of_parts_adds_up_and_a_constant_layer_has_none():
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(24, 5, generator=generator), torch.randn(24, 5, generator=generator)
    whole, first, second = (MinibatchCKA(1, 1) for _ in range(3))
    for start in (0, 8, 16):
        part = slice(start, start + 8)
        whole.add([x[part]], [y[part]])
        (first if start else second).add([x[part]], [y[part]])
    first.sums += second.sums
    assert first.values() == whole.values()
    constant = MinibatchCKA(1, 1)
    constant.add([torch.ones(8, 3)], [x[:8]])
    constant.add([x[:3]], [x[:3]])  # too few to say anything
    assert constant.values() == [[None]]


def test_nll_and_brier_are_scikit_learns():
    logits, labels = some()
    p = scipy.special.softmax(logits.double().numpy(), axis=1)
    ours = measures(probabilistic(logits, labels))
    brier: Any = brier_score_loss
    assert ours["nll"] == pytest.approx(log_loss(labels, p, labels=range(7)), rel=1e-9)
    assert ours["brier"] == pytest.approx(brier(labels, p, labels=range(7), scale_by_half=False), rel=1e-9)


def test_reliability_by_hand():
    # Confidences 0.9 (right), 0.9 (wrong), 0.6 (right): bins 13 and 8 of 15.
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    ours = measures(probabilistic(p.log(), torch.tensor([0, 1, 1])))
    assert [b["images"] for b in ours["bins"]] == [0] * 8 + [1] + [0] * 4 + [2, 0]
    assert ours["bins"][13] == {"confidence": pytest.approx(0.9), "accuracy": 0.5, "images": 2}
    assert ours["bins"][0] == {"confidence": None, "accuracy": None, "images": 0}
    assert ours["ece"] == pytest.approx((2 * 0.4 + 1 * 0.4) / 3, abs=1e-6)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_each_half_is_measured_at_the_temperature_of_the_other(tmp_path, size):
    logits, labels = some(scale=4.0)
    kept = KeptLogits(tmp_path)
    for start in range(0, 400, size):
        part = slice(start, start + size)
        kept.add(logits[part], labels[part], torch.arange(400)[part])
    found = scaled(kept, same)
    assert found is not None

    halves = [torch.tensor([i for i in range(400) if (i * 2654435761 // 65536) % 2 == half]) for half in (0, 1)]

    def nll(log_t, half):
        log_p = scipy.special.log_softmax(logits[halves[half]].double().numpy() / math.exp(log_t), axis=1)
        return -log_p[np.arange(len(log_p)), labels[halves[half]].numpy()].mean()

    one, other = (
        math.exp(scipy.optimize.minimize_scalar(nll, args=(half,), bounds=(-3, 3), options={"xatol": 1e-9}).x)
        for half in (0, 1)
    )
    assert abs(one - other) > 0.01  # so that it matters which is used where
    assert found["temperature"] == pytest.approx(math.sqrt(one * other), rel=1e-4)
    parts = [nll(math.log(other), 0) * len(halves[0]), nll(math.log(one), 1) * len(halves[1])]
    expected = sum(parts) / 400
    assert found["after"]["nll"] == pytest.approx(expected, rel=1e-6)
    assert list(tmp_path.iterdir()) == []  # the files have no names


def test_a_half_without_images_has_no_temperature(tmp_path):
    logits, labels = some(images=4)
    kept = KeptLogits(tmp_path)
    kept.add(logits, labels, torch.zeros(4, dtype=torch.int64))
    assert scaled(kept, same) is None


@pytest.mark.parametrize("every", [1, 2, 4, 10])
def test_images_taken_at_any_distance_fall_into_both_halves(every):
    assert 480 < int(half_of(torch.arange(1000) * every).sum()) < 520


def test_confusion_is_scikit_learns_for_the_most_confused_classes():
    rng = np.random.default_rng(0)
    theirs = rng.integers(0, 60, 3000)
    ours = np.where(rng.random(3000) < 0.8, theirs, rng.integers(0, 60, 3000))
    pairs = Pairs()
    for start in range(0, 3000, 64):
        part = slice(start, start + 64)
        pairs.add(torch.from_numpy(theirs[part]), torch.from_numpy(ours[part]))
    found = confusion(pairs.counts, 60)
    whole = confusion_matrix(theirs, ours, labels=range(60))
    assert len(found["classes"]) == 40
    assert np.array_equal(found["counts"], whole[np.ix_(found["classes"], found["classes"])])
    off = whole.sum(0) + whole.sum(1) - 2 * whole.diagonal()
    assert sorted(off[found["classes"]].tolist()) == sorted(off.tolist())[-40:]


def test_the_gallery_has_the_most_confident_of_every_class_first():
    # Two classes; row i: the reference says 0 and the model 1, each with probability confidence[i].
    confidence = torch.tensor([0.6, 0.9, 0.8, 0.7, 0.95])
    reference, own = (
        torch.stack([confidence, 1 - confidence], 1).log(),
        torch.stack([1 - confidence, confidence], 1).log(),
    )
    labels = torch.tensor([0, 0, 0, 1, 0])
    gallery = Disagreements()
    for part in (slice(0, 2), slice(2, 5)):
        gallery.add(reference[part], own[part], labels[part], torch.arange(10, 15)[part])
    gallery.add(own, own, labels, torch.arange(20, 25))  # agreement
    chosen = gallery.chosen
    assert [entry["index"] for entry in chosen] == [14, 13, 11, 12, 10]
    assert chosen[0]["label"] == 0
    assert chosen[0]["reference_top5"] == [[0, pytest.approx(0.95)], [1, pytest.approx(0.05)]]
    assert chosen[0]["top5"][0] == [1, pytest.approx(0.95)]


def test_the_gallery_without_labels_is_what_sorting_all_at_once_gives():
    generator = torch.Generator().manual_seed(0)
    gallery, everything = Disagreements(), []
    for start in range(0, 2000, 50):
        pair = 3 * torch.randn(2, 50, 6, generator=generator)
        index = torch.arange(start, start + 50)
        gallery.add(pair[0], pair[1], None, index)
        p, q = pair.softmax(-1).max(-1)
        everything += [
            (-a * b, i, int(k))
            for a, b, i, k, m in zip(p[0].tolist(), p[1].tolist(), index.tolist(), q[0], q[1], strict=True)
            if k != m
        ]
    ranked = []
    for k in range(6):
        ranked += [(place, *row) for place, row in enumerate(sorted(row for row in everything if row[2] == k))]
    assert [entry["index"] for entry in gallery.chosen] == [row[2] for row in sorted(ranked)[:12]]
    assert len({entry["reference_top5"][0][0] for entry in gallery.chosen[:6]}) == 6
    assert len(gallery.chosen[0]["top5"]) == 5


@pytest.mark.parametrize("sizes", [(400,), (64,) * 6 + (16,), (1,) * 400])
def test_a_tally_does_not_depend_on_the_batches(tmp_path, sizes):
    (own, labels), (reference, _) = some(seed=0), some(seed=0, scale=2.5)
    reference = reference + 0.5 * torch.randn(400, 7, generator=torch.Generator().manual_seed(9))
    tally = Tally(7, compared=True, folder=tmp_path)
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        tally.add(own[part], labels[part], torch.arange(400)[part], reference[part])
        start += size
    found = tally.result(400, same, lambda value: [value])
    ours, theirs, wanted = own.argmax(1).numpy(), reference.argmax(1).numpy(), labels.numpy()
    assert found["top1"] == (ours == wanted).mean()
    assert found["agreement"] == (ours == theirs).mean()
    only = ((theirs == wanted) & (ours != wanted)).sum(), ((ours == wanted) & (theirs != wanted)).sum()
    assert (found["mcnemar"]["only_reference"], found["mcnemar"]["only_this"]) == only
    right = [(int((wanted == k).sum()), int(((wanted == k) & (ours == k)).sum())) for k in range(7)]
    assert [(c["images"], c["correct"]) for c in found["per_class"]] == right
    for a_class, (n, correct) in zip(found["per_class"], right, strict=True):
        wilson = scipy.stats.binomtest(correct, n).proportion_ci(method="wilson")
        assert a_class["interval"] == pytest.approx([wilson.low, wilson.high], abs=1e-6)
    log_p, log_q = (scipy.special.log_softmax(z.double().numpy(), axis=1) for z in (own, reference))
    assert found["kl"] == pytest.approx((np.exp(log_q) * (log_q - log_p)).sum(1).mean(), rel=1e-5)
    assert np.array_equal(found["confusion"]["counts"], confusion_matrix(theirs, ours, labels=range(7)))
    ranks = [spearman(a, b) for a, b in zip(own, reference, strict=True)]
    assert found["fidelity"]["rank_correlation"] == pytest.approx(np.mean(ranks), rel=1e-9)


def test_a_tally_keeps_no_logits_in_memory(tmp_path):
    def held_bytes(tally) -> int:
        """What the tally holds but for its files; of a part of a tensor the whole is counted."""
        held = [value for name, value in vars(tally).items() if name not in ("kept", "pairs", "gallery")]
        held += [tally.pairs.counts, tally.gallery.chosen, [half.parts for half in tally.kept.halves]]
        buffer = io.BytesIO()
        pickle.dump(held, buffer)
        return buffer.tell()

    generator = torch.Generator().manual_seed(0)
    tally, held = Tally(1000, compared=True, folder=tmp_path), []
    for step in range(30):
        logits = torch.randn(2, 64, 1000, generator=generator)
        labels = torch.randint(0, 1000, (64,), generator=generator)
        tally.add(logits[0], labels, torch.arange(64 * step, 64 * step + 64), logits[1])
        if step in (9, 29):
            held.append(held_bytes(tally))
    assert sum(map(len, tally.kept.halves)) == 1920
    # The logits of an image have 4,000 bytes; its label and, here, a pair of decisions that nobody else had are kept.
    assert (held[1] - held[0]) / 1280 < 64
