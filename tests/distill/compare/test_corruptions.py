"""Corruptions are functions of image, strength and index, and a stronger one changes more."""

import numpy as np
import pytest
import torch
from PIL import Image

from distill.compare.corruptions import CORRUPTIONS, corrupt


def picture(size=(48, 40), mode="RGB", seed=0):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(40, 200, (12, 12, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return coarse.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_stronger_corruption_changes_more(name, mode):
    image = picture(mode=mode)
    before = np.asarray(image).astype(float)
    seen = [corrupt(image, name, strength, index=3) for strength in range(1, 6)]
    assert all((one.size, one.mode) == (image.size, mode) for one in seen)
    errors = [np.abs(np.asarray(one) - before).mean() for one in seen]
    assert errors == sorted(errors)
    assert errors[0] > 0.3
    assert errors[-1] > 1.3 * errors[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_the_same_again_whatever_was_drawn_before(name):
    image = picture()
    torch.manual_seed(1)
    first = np.asarray(corrupt(image, name, 3, index=7))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert np.array_equal(first, np.asarray(corrupt(image, name, 3, index=7)))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())  # it takes nothing from the global numbers
    other = np.asarray(corrupt(image, name, 3, index=8))
    assert np.array_equal(first, other) == (name != "gaussian noise")


def test_noise_and_contrast_by_hand():
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    noise = np.asarray(corrupt(grey, "gaussian noise", 1, index=0)).astype(float) - 128
    assert abs(noise.mean()) < 0.3
    assert noise.std() == pytest.approx(0.08 * 255, rel=0.02)
    halves = Image.fromarray(np.repeat(np.array([[0], [200]], np.uint8), 2, 1))
    assert np.asarray(corrupt(halves, "contrast", 1, index=0)).tolist() == [[60, 60], [140, 140]]  # 100 ± 0.4 × 100
    assert np.asarray(corrupt(Image.new("L", (4, 4), 100), "brightness", 1, index=0)).tolist() == [[130] * 4] * 4


def test_a_photograph_is_first_made_small_and_an_icon_is_not():
    assert corrupt(picture((1000, 500)), "jpeg", 1, index=0).size == (512, 256)
    for name in CORRUPTIONS:
        assert corrupt(picture((3, 2)), name, 5, index=0).size == (3, 2)
        assert corrupt(Image.new("L", (1, 1)), name, 5, index=0).size == (1, 1)
    assert corrupt(Image.new("LA", (5, 5)), "jpeg", 1, index=0).mode == "RGB"
