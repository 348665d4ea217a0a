"""Counts by hand, and intervals against published values."""

import math

import pytest
import torch

from distill.evaluate import interval, score
from distill.loader import Batch

CPU = torch.device("cpu")


def batches(views, labels, size):
    for i in range(0, len(views), size):
        yield Batch(
            views[i : i + size], None if labels is None else labels[i : i + size], torch.arange(i, i + size), 0, i
        )


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_score_by_hand_does_not_depend_on_the_batch_size(size):
    # Views are logits here: a model is the identity, its reference shifts the classes by one.
    views = torch.tensor([[9.0, 5, 4, 3, 2, 1], [5.0, 9, 4, 3, 2, 1], [1.0, 2, 3, 4, 5, 9], [6.0, 5, 4, 3, 2, 1]])
    labels = torch.tensor([0, 0, 0, 5])
    models = {"shift": lambda v: v.roll(1, 1), "own": lambda v: v, "same": lambda v: v}
    reference = {"own": "shift", "same": "own"}
    scores = score(models, batches(views, labels, size), device=CPU, total=4, reference=reference)
    own = scores["own"]
    assert (own.images, own.labelled, own.top1, own.top5) == (4, 4, 1 / 4, 2 / 4)
    assert own.agreement == 0
    log_p = views.double().log_softmax(1)
    assert own.nll == pytest.approx(-log_p[range(4), labels].mean().item(), rel=1e-6)
    log_q = views.roll(1, 1).double().log_softmax(1)
    assert own.kl == pytest.approx((log_q.exp() * (log_q - log_p)).sum(1).mean().item(), rel=1e-6)
    assert (scores["same"].agreement, scores["same"].kl) == (1, 0)
    assert scores["shift"].kl is None


def test_top5_is_left_out_below_five_classes_and_accuracy_without_labels():
    few = score({"m": lambda v: v}, batches(torch.eye(4), torch.arange(4), 2), device=CPU, total=4)["m"]
    assert (few.top1, few.top5) == (1.0, None)
    unlabelled = score({"m": lambda v: v}, batches(torch.eye(6), None, 4), device=CPU, total=6)["m"]
    assert (unlabelled.images, unlabelled.labelled, unlabelled.top1, unlabelled.nll) == (6, 0, None, None)


def test_an_image_that_is_missing_or_counted_twice_stops_the_evaluation():
    for total in (3, 5):
        with pytest.raises(AssertionError, match=f"4 images were counted, but the set has {total}"):
            score({"m": lambda v: v}, batches(torch.eye(4), None, 2), device=CPU, total=total)


def test_interval_is_wilsons():
    # The first example of Newcombe 1998 (Statistics in Medicine 17:857), method 3.
    low, high = interval(81 / 263, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert interval(1.0, 10)[1] == pytest.approx(1.0)
    assert interval(0.0, 10)[0] == 0.0
    assert interval(0.0, 20)[1] == pytest.approx(0.1611, abs=1e-4)
    assert math.isclose(sum(interval(0.5, 99)), 1.0)
