"""What runs cost: multiplications as torch counts them, hours and bytes by hand."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

STUDY = Path(__file__).parents[1] / "recipes" / "studies" / "cost.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("cost_study", STUDY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cost_study"] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["cost_study"]


@pytest.mark.parametrize("distilled", [False, True])
def test_multiplications_are_those_that_torch_counts(study, distilled):
    for config in study.STUDENTS.values():
        config = config.override(distilled=distilled, depth=2)
        with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
            config.build().eval()(torch.empty(1, 3, 224, 224))
        assert study.macs(config) == counter.get_total_flops() // 2
    assert study.teacher_macs("vit_tiny_patch16_224") == study.macs(study.STUDENTS["ViT-Ti/16"]) == 1_253_683_200


def test_hours_and_bytes_by_hand(study):
    cost = study.Cost(images_per_second=(1000, 500, 250), devices=4, efficiency=0.5, images=(1e6,), epochs=(36,))
    rows = [line.strip("| ").split(" | ") for line in study.table(cost).splitlines()[2:]]
    # 36 M views at 1000 × 4 × 0.5 a second: 18,000 s on 4 devices; 110 kB and 36 × 44 bytes an image; 5.717 M × 16 × 2.
    assert rows[0] == ["ViT-Ti/16", "1 M", "36", "1,000", "2,000", "5.0", "20", "0.11", "2", "0.18"]
    assert [row[5] for row in rows] == ["5.0", "10", "20"]


def test_a_rate_from_operations(study):
    cost = study.Cost(operations_per_second=3e12, teacher="vit_tiny_patch16_224")
    tiny, small, _ = study.rates(cost).values()
    assert tiny == pytest.approx(3e12 / (2 * 4 * 1_253_683_200))  # the teacher once, the student thrice
    assert small == pytest.approx(3e12 / 2 / (1_253_683_200 + 3 * 4_598_882_304))


def test_no_rate_is_made_up():
    done = subprocess.run([sys.executable, str(STUDY)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no rate, or two, are given; use --images-per-second TI S B or")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images_per_second": (0, 1, 1)}, "--images-per-second is 0 1 1; use numbers above 0"),
        ({"images_per_second": (1, 1, 1), "devices": 0}, "--devices is 0; use numbers above 0"),
        ({"images_per_second": (1, 1, 1), "efficiency": 9}, "--efficiency is 9; use numbers above 0 up to 1"),
    ],
)
def test_what_cannot_be_is_refused(study, options, message):
    with pytest.raises(ValueError, match=message):
        study.table(study.Cost(**options))
