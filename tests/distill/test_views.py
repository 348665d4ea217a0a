"""Views, mixing and batches are functions of their address: nothing else changes what is trained on."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distill.data import ArrayImages
from distill.loader import Layout, in_order, train_batches
from distill.mixing import kept_pixels, mix, pair_kept
from distill.views import Views, at_address, order, train_transform, val_transform, with_channels

RNG = np.random.default_rng(0)
COLOUR = Image.fromarray(RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8))
IMAGES = ArrayImages(RNG.integers(0, 256, (64, 12, 12), dtype=np.uint8), np.arange(64) % 10)
EVERYTHING = Views(auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.5, mixup=0.8, cutmix=1.0)


def transform(views=EVERYTHING, size=(8, 8), in_chans=1):
    return train_transform(views, size, in_chans, (0.3,) * in_chans, (0.3,) * in_chans)


def test_an_address_decides_all_three_sources_and_leaves_them_as_they_were():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    before = random.getstate(), torch.get_rng_state()
    np.random.seed(7)
    of_numpy = np.random.rand(2).tolist()
    np.random.seed(7)
    assert np.random.rand() == of_numpy[0]
    with at_address(1, 2, 3):
        first = draw()
    assert np.random.rand() == of_numpy[1]
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    draw()
    with at_address(1, 2, 3):
        assert draw() == first
    with at_address(1, 2, 4):
        assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_order_is_a_permutation_that_changes_with_seed_and_epoch():
    orders = [tuple(order(seed, epoch, 50)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert all(sorted(o) == list(range(50)) for o in orders)
    assert orders[0] == tuple(order(0, 0, 50))


def test_repeats_by_hand():
    # Six places and three views: two images a batch, a b, then rotated by one each time. Eight places: four images.
    order_of_epoch = np.array([5, 3, 8, 1, 0, 7, 2, 9])
    three = Layout(images=8, batch_size=6, epochs=1, repeats=3)
    assert three.shown(order_of_epoch, 0, 6) == [(5, 0), (3, 0), (3, 1), (5, 1), (5, 2), (3, 2)]
    two = Layout(images=8, batch_size=4, epochs=1, repeats=2)
    assert two.shown(order_of_epoch, 4, 4) == [(8, 0), (1, 0), (1, 1), (8, 1)]  # the second batch's
    assert two.shown(order_of_epoch, 6, 2) == [(1, 1), (8, 1)]  # its second part
    assert Layout(images=8, batch_size=4, epochs=1).shown(order_of_epoch, 4, 2) == [(0, 0), (7, 0)]


@given(repeats=st.integers(2, 5), half=st.integers(5, 40), batch=st.integers(0, 3))
def test_repeats_show_each_image_about_as_often_and_never_beside_itself(repeats, half, batch):
    layout = Layout(images=400, batch_size=2 * half, epochs=1, repeats=repeats)
    shown = layout.shown(np.arange(400), batch * layout.batch_size, layout.batch_size)
    assert len(set(shown)) == layout.batch_size
    counts = np.unique([index for index, _ in shown], return_counts=True)[1]
    assert repeats - 1 <= counts.min() <= counts.max() <= repeats
    assert all(shown[i][0] != shown[i + 1][0] for i in range(0, layout.batch_size, 2))  # which mixing would mix


def test_repeats_are_other_views_of_an_image_wherever_the_batch_is_divided():
    whole = Layout(images=64, batch_size=16, epochs=1, repeats=2)
    (first, *_) = train_batches(IMAGES, transform(), whole, seed=3, process=0, start_step=0, workers=0)
    once = Layout(images=64, batch_size=16, epochs=1)
    (plain, *_) = train_batches(IMAGES, transform(), once, seed=3, process=0, start_step=0, workers=0)
    assert torch.equal(first.views[:8], plain.views[:8])  # the first view of each is the one without repeats
    assert first.index[8:].tolist() == [*first.index[1:8].tolist(), int(first.index[0])]
    assert not any(torch.equal(a, b) for a, b in zip(first.views[8:], first.views[[*range(1, 8), 0]], strict=True))
    divided = Layout(images=64, batch_size=16, epochs=1, repeats=2, processes=2)
    halves = [
        next(train_batches(IMAGES, transform(), divided, seed=3, process=process, start_step=0, workers=0))
        for process in (0, 1)
    ]
    assert torch.equal(torch.cat([half.views for half in halves]), first.views)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_however_many_workers_and_wherever_they_start(workers):
    layout = Layout(images=64, batch_size=16, epochs=2)
    options = {"seed": 3, "process": 0}
    whole = list(train_batches(IMAGES, transform(), layout, **options, start_step=0, workers=0))
    rest = list(train_batches(IMAGES, transform(), layout, **options, start_step=5, workers=workers))
    assert len(whole) == 8
    assert [(b.epoch, b.position) for b in rest] == [(1, 16), (1, 32), (1, 48)]
    for one, other in zip(whole[5:], rest, strict=True):
        assert torch.equal(one.views, other.views)
        assert torch.equal(torch.as_tensor(one.labels), torch.as_tensor(other.labels))


@settings(max_examples=20)
@given(st.sampled_from([(1, 1), (2, 1), (1, 2), (4, 2), (8, 1)]))
def test_processes_and_accumulation_divide_the_same_global_batches_mixing_included(division):
    processes, accumulate = division

    def mixed(processes, accumulate):
        layout = Layout(images=64, batch_size=32, epochs=1, processes=processes, accumulate=accumulate)
        images: dict[int, torch.Tensor] = {}
        labels: dict[int, torch.Tensor] = {}
        for process in range(processes):
            batches = train_batches(IMAGES, transform(), layout, seed=0, process=process, start_step=0, workers=0)
            for b in batches:
                x, y = mix(b.views, b.labels, EVERYTHING, 10, seed=0, epoch=b.epoch, position=b.position)
                assert y is not None
                for i in range(len(x)):
                    images[b.position + i], labels[b.position + i] = x[i], y[i]
        positions = range(64)
        return torch.stack([images[p] for p in positions]), torch.stack([labels[p] for p in positions])

    one, many = mixed(1, 1), mixed(processes, accumulate)
    assert torch.equal(one[0], many[0])
    assert torch.equal(one[1], many[1])


def test_every_validation_image_comes_once_whatever_the_processes():
    view = val_transform(Views(crop_pct=1.0), (12, 12), 1)
    seen = []
    for process in range(3):
        for batch in in_order(IMAGES, view, batch_size=5, workers=0, process=process, processes=3):
            seen += [bytes(v.numpy().tobytes()) for v in batch.views]
    assert sorted(seen) == sorted(image.tobytes() for image in IMAGES.images)


def test_mixup_by_hand():
    views = Views(mixup=0.8)
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    mixed, labels = mix(images, torch.tensor([2, 5]), views, 10, seed=0, epoch=0, position=6)
    share = mixed[1, 0, 0, 0].item()  # the second image is all ones
    assert 0 < share < 1
    assert mixed[0].unique().item() == pytest.approx(1 - share)
    assert labels is not None
    assert labels[0, 2].item() == pytest.approx(share)
    assert labels[0, 5].item() == pytest.approx(1 - share)
    assert labels.sum(1).tolist() == pytest.approx([1.0, 1.0])


def test_cutmix_shares_are_what_the_clipped_box_covers():
    images = torch.stack([torch.zeros(1, 9, 11), torch.ones(1, 9, 11)])
    for position in range(0, 40, 2):
        mixed, labels = mix(images, torch.tensor([0, 1]), Views(cutmix=1.0), 2, seed=1, epoch=0, position=position)
        assert set(mixed.unique().tolist()) <= {0.0, 1.0}
        assert labels is not None
        assert labels[0, 1].item() == pytest.approx(mixed[0].mean().item(), abs=1e-6)


def test_what_a_pair_keeps_by_hand():
    # A pair that is left alone, one that keeps 0.25 of every pixel, one that loses rows 1-2 of columns 0-1.
    keep = kept_pixels([(1.0, 0, 0, 0, 0), (0.25, 0, 0, 0, 0), (1.0, 1, 3, 0, 2)], torch.zeros(6, 3, 3, 4))
    assert keep.tolist() == [
        [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]],
        [[0.25] * 4] * 3,
        [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]],
    ]


def test_mixing_shares_follow_their_distributions():
    # Beta(1, 1) is uniform: mean 1/2, and variance 1/12 for mixup.
    shares = np.array([pair_kept(Views(mixup=1.0), 1, 1, seed)[0] for seed in range(4000)])
    assert shares.mean() == pytest.approx(1 / 2, abs=0.02)
    assert shares.var() == pytest.approx(1 / 12, abs=0.005)
    none = [pair_kept(Views(mixup=1.0, mix_prob=0.25), 1, 1, seed)[0] == 1 for seed in range(4000)]
    assert np.mean(none) == pytest.approx(0.75, abs=0.03)
    both = Views(mixup=0.8, cutmix=1.0, mix_switch_prob=0.3)
    boxes = [pair_kept(both, 64, 64, seed)[0] == 1 for seed in range(2000)]
    assert np.mean(boxes) == pytest.approx(0.3, abs=0.04)


def test_validation_view_equals_timms_eval_transform():
    from timm.data.transforms_factory import transforms_imagenet_eval

    reference = transforms_imagenet_eval(32, crop_pct=0.875, interpolation="bicubic", normalize=False)
    assert torch.equal(val_transform(Views(), (32, 32), 3)(COLOUR), torch.as_tensor(reference(COLOUR)))


def test_every_view_option_changes_the_view():
    # With the same random numbers, each option must show in the pixels.
    def seen(**options: Any):
        with at_address(0, 0, 1):
            return transform(Views(**options), (32, 32), 3)(COLOUR).float().numpy().tobytes()

    options: list[dict[str, Any]] = [
        {"scale": (0.5, 1.0)}, {"ratio": (0.5, 0.6)}, {"hflip": 1.0}, {"vflip": 1.0}, {"auto_augment": "3a"},
        {"auto_augment": "rand-m9-mstd0.5-inc1"}, {"color_jitter": 0.4}, {"re_prob": 1.0}, {"scale": (1.0, 1.0)},
        {"re_prob": 1.0, "re_mode": "const"}, {"interpolation": "bilinear"},
    ]  # fmt: skip
    seen_by_option = {seen(hflip=0.0), *(seen(**({"hflip": 0.0} | option)) for option in options)}
    assert len(seen_by_option) == 1 + len(options)


def test_flips_by_hand():
    image = Image.fromarray(np.arange(9, dtype=np.uint8).reshape(3, 3))
    whole: dict[str, Any] = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    left_right = transform(Views(**whole, hflip=1.0), (3, 3))(image)
    assert left_right[0].tolist() == [[2, 1, 0], [5, 4, 3], [8, 7, 6]]
    upside_down = transform(Views(**whole, hflip=0.0, vflip=1.0), (3, 3))(image)
    assert upside_down[0].tolist() == [[6, 7, 8], [3, 4, 5], [0, 1, 2]]


def test_grey_views_survive_colour_augmentation():
    view = transform(Views(auto_augment="3a", color_jitter=0.3), (8, 8), 1)(IMAGES[0][0])
    assert view.shape == (1, 8, 8)
    assert view.dtype == torch.uint8
    assert np.asarray(with_channels(COLOUR, 1)).shape == (40, 60)


@pytest.mark.parametrize("policy", ["rand-m10-n1-mstd0-inc1", "original", "v0", "augmix-m10-w1-d1"])
def test_posterizing_to_no_bits_gives_a_black_image(policy):
    # Pillow 13 refuses it; a DeiT policy draws it for one image in a few hundred.
    from timm.data.transforms_factory import transforms_imagenet_train

    from distill.posterize import mend_posterize, posterize

    steps: Any = transforms_imagenet_train((8, 8), auto_augment=policy, separate=True)
    augment = steps[1]
    mend_posterize(augment)
    policies = [
        nested for step in augment.transforms for nested in (getattr(step, "ops", []), *getattr(step, "policy", []))
    ]
    found = [operation for nested in policies for operation in nested if "Posterize" in operation.name]
    assert found
    grey = Image.new("RGB", (2, 2), (200, 130, 70))
    for operation in found:
        assert operation.aug_fn(grey, 0).getpixel((0, 0)) == (0, 0, 0)
        assert operation.aug_fn(grey, 1).getpixel((0, 0)) == (128, 128, 0)
        assert operation.aug_fn(grey, 8) is grey
    assert posterize(Image.new("L", (2, 2), 200), 0).getpixel((0, 0)) == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0, 32768, 65535]], dtype=np.uint16), [0, 128, 255]),
        (np.array([[0, 32768, 65535]], dtype=np.int32), [0, 128, 255]),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_deep_images_of_ones_own_set_are_scaled_and_not_cut(values, expected, channels):
    shown = np.asarray(with_channels(Image.fromarray(values), channels))
    assert shown.reshape(1, 3, -1)[0, :, 0].tolist() == expected
