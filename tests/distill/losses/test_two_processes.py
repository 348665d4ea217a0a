"""Two processes with half of a batch each give the losses and the gradients of one with all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    commands = {1: [str(SCRIPT), str(folder / "1.pt"), "1"], 2: [*launcher, str(SCRIPT), str(folder / "2.pt"), "2"]}
    for command in commands.values():
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    return {processes: torch.load(folder / f"{processes}.pt", weights_only=True) for processes in commands}


@pytest.mark.parametrize("name", ["DIST", "Hint", "Manifold", "RKD", "SimilarityPreserving"])
def test_without_gather_each_process_compares_its_own_images(name, measured):
    one, two = measured[1][f"{name} apart"]["terms"], measured[2][f"{name} apart"]["terms"]
    assert torch.equal(one, measured[1][name]["terms"])  # one process has nobody to ask
    assert not torch.allclose(one, two, rtol=1e-3)


def test_two_processes_give_the_value_and_the_gradient_of_one(loss_name, measured):
    one, two = measured[1][loss_name], measured[2][loss_name]
    assert torch.allclose(one["terms"], two["terms"], rtol=1e-5, atol=1e-6)
    scale = one["gradients"].abs().max()
    assert (one["gradients"] - two["gradients"]).abs().max() < 1e-4 * scale
