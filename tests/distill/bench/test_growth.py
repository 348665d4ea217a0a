"""What is measured as images become more: sizes in turns, and sets that are as large as they say."""

import numpy as np
import pytest

from distill.bench.abreast import Grown, grown, times
from distill.bench.growing import FEW, PARTS, SIDE, Job, Noted, images_of
from distill.bench.growth import Growth, cell, per_image


def test_every_size_is_as_many_images_in_a_round_but_for_the_very_small():
    assert [times(size, 100_000) for size in (100, 500, 30_000, 100_000)] == [200, 200, 3, 1]


def test_a_ratio_is_the_median_of_the_rounds_own():
    # The machine was twice as slow in the second round: of medians it would be 2.
    assert cell([11e-6, 22e-6, 13e-6], [10e-6, 20e-6, 10e-6]) == "13 (11 to 22), × 1.10"


def test_what_starting_costs_is_taken_off_by_hand():
    # 500 images take 2 s, 1,500 take 5: each of the 1,000 more takes 3 ms, whatever starting costs.
    few, one = (Grown(seconds={"validate": [seconds], "train": [seconds]}, peaks={}) for seconds in (2.0, 5.0))
    assert per_image(one, few, 1_500, "validate") == [0.003]
    # 23 batches of 64: from the second to the last 21 are loaded and trained on.
    assert per_image(one, few, 1_500, "train") == [5 / (21 * 64)]


def test_training_is_timed_from_its_second_batch_to_its_last(tmp_path):
    plan = Job("synthetic", 320, tmp_path / "own").plan()
    noted = Noted(plan.train)
    assert len(noted) == 320
    for index in range(320):
        assert noted[index][1] == plan.train[index][1]
    assert len(noted.at) == 5
    assert noted.between == noted.at[4] - noted.at[1] > 0


@pytest.mark.slow
def test_sizes_are_measured_side_by_side(tmp_path):
    found = grown("synthetic", (1_000,), tmp_path, rounds=1)
    assert list(found) == [FEW, 1_000]
    for part in PARTS:
        few, many = (found[size].seconds[part] for size in (FEW, 1_000))
        assert len(few) == len(many) == 1
        assert min(few + many) > 0
    assert list(found[1_000].peaks) == ["validate", "compare"]


def test_a_process_that_fails_ends_all_of_them_in_its_words(tmp_path):
    (tmp_path / "1000" / "own").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"1,000 images: FileExistsError: .*File exists"):
        grown("synthetic", (1_000,), tmp_path, rounds=1)


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="--rounds is 0; use 1 or more"):
        Growth(rounds=0)()


@pytest.mark.parametrize("sizes", [(), (2 * FEW - 1,), (2_000, 1_000), (1_000, 1_000)])
def test_sizes_that_cannot_be_compared_are_refused(sizes):
    with pytest.raises(ValueError, match="rising numbers, from 1000 on"):
        Growth(sizes=sizes)()


@pytest.mark.parametrize("data", ["arrays", "folder", "synthetic"])
def test_sets_have_as_many_images_and_classes_as_asked_for(data, tmp_path):
    images = images_of(data, 30, tmp_path)
    for split in (images.train(), images.val()):
        assert len(split) == 30
        assert split[7][0].size == (SIDE, SIDE)
        assert np.bincount([split[at][1] for at in range(30)]).tolist() == [3] * 10
