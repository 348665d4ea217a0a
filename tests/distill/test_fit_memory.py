"""Fitting a head holds its features once: batches that have passed leave nothing behind."""

import subprocess
import sys

import pytest

# A process of its own, for only there the peak is this work's.
SCRIPT = """
import resource, sys, torch
from accelerate import Accelerator
from distill import Optim, Recipe, Synthetic, preflight
from distill.console import Console
from distill.losses import SoftTargets
from distill.teaching import fitted_head
from pathlib import Path
from students import ViTConfig
from teachers import Teacher

accelerator = Accelerator(cpu=True)
torch.set_num_threads(1)
recipe = Recipe(
    student=ViTConfig(img_size=28, patch_size=14, num_classes=None, embed_dim=16, depth=1, num_heads=1),
    teacher=Teacher(
        name="mobilenetv3_small_050", img_size=112, head="fit", fit_images=int(sys.argv[1]), runtime="eager"
    ),
    data=Synthetic(images=2048, val_images=16, img_size=28),
    losses={"soft": SoftTargets()},
    optim=Optim(epochs=1, batch_size=64, warmup_epochs=0),
)
teacher = Teacher.build
Teacher.build = lambda self, **options: teacher(self, **options | {"pretrained": False})  # no download
plan = preflight.check(recipe, processes=1, accumulate=1)
fitted_head(plan, Path(sys.argv[2]), accelerator, Console(main=False), workers=0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_batches_that_passed(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    peaks = []
    for images in (256, 2048):
        (out := tmp_path / str(images)).mkdir()
        command = [sys.executable, "-c", SCRIPT, str(images), str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(float(done.stdout.split()[-1]))
    features = 2 * (2048 - 256) * 1024 * 4 / 2**20  # MiB, of which the fit makes one more copy
    assert peaks[1] - peaks[0] < 3 * features + 50, peaks
