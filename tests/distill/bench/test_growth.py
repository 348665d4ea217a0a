"""What is measured as images become more: sizes in turns, and sets that are as large as they say."""

import numpy as np
import pytest

from distill.bench.growth import FEW, SIDE, Growth, _images, turns


def test_smaller_sizes_are_taken_before_and_after_each_larger_one():
    assert turns((1, 2, 3)) == [1, 2, 1, 3, 1, 2, 1]


@pytest.mark.parametrize("sizes", [(), (2 * FEW,), (2_000, 1_000), (1_000, 1_000)])
def test_sizes_that_cannot_be_compared_are_refused(sizes):
    with pytest.raises(ValueError, match="rising numbers above 256"):
        Growth(sizes=sizes)()


@pytest.mark.parametrize("data", ["arrays", "folder", "synthetic"])
def test_sets_have_as_many_images_and_classes_as_asked_for(data, tmp_path):
    images = _images(data, 30, tmp_path)
    for split in (images.train(), images.val()):
        assert len(split) == 30
        assert split[7][0].size == (SIDE, SIDE)
        assert np.bincount([split[at][1] for at in range(30)]).tolist() == [3] * 10
