"""From a view to a model's input, by hand and against Pillow."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from students.preprocess import Preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_normalised_by_hand() -> None:
    view = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    by_hand = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert Preprocess((1, 1), MEAN, STD)(view).flatten().tolist() == pytest.approx(by_hand)


def test_bytes_and_floats_agree() -> None:
    view = torch.randint(0, 256, (2, 3, 9, 7), dtype=torch.uint8)
    prepare = Preprocess((5, 6), MEAN, STD)
    assert torch.equal(prepare(view), prepare(view.float() / 255))


def test_grey_is_repeated_for_a_colour_model() -> None:
    grey = torch.rand(2, 1, 4, 4)
    assert torch.equal(Preprocess((4, 4), (0, 0, 0), (1, 1, 1))(grey), torch.cat([grey] * 3, 1))


def test_colour_becomes_pillows_grey() -> None:
    colour = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    grey = Preprocess((8, 8), (0.0,), (1.0,))(colour)[0, 0] * 255
    theirs = np.asarray(Image.fromarray(colour[0].permute(1, 2, 0).numpy()).convert("L"))
    assert np.abs(grey.numpy() - theirs).max() <= 0.51  # Pillow rounds


@pytest.mark.parametrize("size", [(16, 16), (40, 28)])
def test_resized_as_pillow_does(size: tuple[int, int]) -> None:
    view = (torch.arange(32) // 8 % 2).expand(1, 1, 24, 32).float()  # stripes: bicubic overshoots, clamping shows
    mine = Preprocess(size, (0.0,), (1.0,))(view)[0, 0]
    theirs = np.asarray(Image.fromarray(view[0, 0].numpy()).resize((size[1], size[0]), Image.Resampling.BICUBIC)).clip(
        0, 1
    )
    assert np.abs(mine.numpy() - theirs).max() < 1e-5
    unclamped = F.interpolate(view, size, mode="bicubic", antialias=True)
    assert unclamped.max() > 1 + 1e-3
    torch.testing.assert_close(mine, unclamped.clamp(0, 1)[0, 0])


def test_channels_that_no_model_takes() -> None:
    with pytest.raises(ValueError, match="images have 4 channels but the model takes 3"):
        Preprocess((4, 4), MEAN, STD)(torch.rand(1, 4, 4, 4))


def test_statistics_are_in_no_checkpoint() -> None:
    prepare = Preprocess((4, 4), MEAN, STD)
    assert not prepare.state_dict()
    assert prepare.double().mean.dtype == torch.float64
