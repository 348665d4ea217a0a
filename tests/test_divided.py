"""Two processes, accumulation and divided weights give the losses and the weights of one process with whole batches."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import students

SCRIPT = Path(__file__).with_name("divided_cases.py")
pytestmark = pytest.mark.slow
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.fixture(scope="module")
def measured(tmp_path_factory, tiny_images):
    folder = tmp_path_factory.mktemp("divided")
    torch.manual_seed(5)
    config = students.ViTConfig(
        img_size=28, patch_size=7, in_chans=1, embed_dim=24, depth=12, num_heads=2, num_classes=10
    )
    model = config.build()
    torch.nn.init.normal_(model.get_parameter("head.weight"), std=0.5)
    teacher = students.save(model, folder / "teacher")
    found = {}
    for processes, launcher in ((1, ()), (2, LAUNCHER)):
        out, aside = folder / f"{processes}.pt", folder / f"of{processes}"
        done = subprocess.run(
            [sys.executable, *launcher, str(SCRIPT), str(out), str(tiny_images), str(teacher), str(aside)],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert not re.search(r"\w*Warning: (Grad strides|`)", done.stderr), done.stderr  # torch's, of how it is called
        found[processes] = torch.load(out, weights_only=True)
    return found


def assert_alike(one: dict, other: dict) -> None:
    assert one["names"] == other["names"]
    assert torch.allclose(one["terms"], other["terms"], atol=1e-4)
    assert torch.allclose(one["weights"], other["weights"], atol=1e-4)


def test_two_processes_give_ten_steps_of_one_for_every_recipes_losses(measured):
    recipes = [name for name in measured[2] if name.endswith(".py")]
    assert {"tests/tiny_recipe.py", "recipes/imagenet/vit_base.py", "recipes/unlabelled.py"} <= set(recipes)
    for name in recipes:
        one, two = measured[1][name], measured[2][name]
        assert len(one["terms"]) == 10
        assert not torch.allclose(one["terms"][0], one["terms"][-1], atol=1e-2), f"{name} learns nothing"
        assert_alike(one, two)


def test_accumulating_twice_equals_the_double_batch_whatever_is_dropped(measured):
    assert_alike(measured[1]["at once"], measured[1]["accumulated"])


def test_weights_divided_by_fsdp2_give_the_losses_of_whole_ones_and_resume(measured):
    whole, divided, resumed = measured[1]["whole"], measured[2]["divided"], measured[2]["divided and resumed"]
    assert divided["teacher"] == "eager, divided among 2 processes"
    assert len(whole["terms"]) == 5
    assert_alike(whole, divided)
    assert torch.allclose(divided["terms"], resumed["terms"], atol=1e-6)
    assert torch.allclose(divided["weights"], resumed["weights"], atol=1e-6)
