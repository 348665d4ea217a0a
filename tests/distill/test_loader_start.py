"""Loader processes that are not forked, as on macOS, Windows and by Python 3.14's default: all goes to them pickled."""

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distill import loader
from distill.views import Views, at_address, train_transform, val_transform

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "views",
    [
        Views(),
        Views(auto_augment="rand-m9-mstd0.5-inc1", re_prob=1.0),
        Views(auto_augment="3a", color_jitter=0.3),
        Views(auto_augment="augmix-m5-w4-d2", vflip=0.5),
        Views(auto_augment="original", interpolation="random", scale=(1.0, 1.0)),
    ],
    ids=["plain", "rand", "3a", "augmix", "original"],
)
def test_a_pickled_transform_gives_the_same_view(views, channels):
    of_training = train_transform(views, (32, 32), channels, (0.5,) * channels, (0.2,) * channels)
    for transform in (of_training, val_transform(views, (32, 32), channels)):
        again = pickle.loads(pickle.dumps(transform))
        with at_address(1, 2, 3):
            one = transform(NOISE)
        with at_address(1, 2, 3):
            other = again(NOISE)
        assert one.shape == (channels, 32, 32)
        assert torch.equal(one, other)


SPAWNED = """
import json, sys
from distill import loader
from distill.compare import seen
from distill.compare.terms import Terms
from distill.data import Folder
from distill.views import Views, train_transform

if __name__ == "__main__":
    loader.START = seen.START = sys.argv[2]
    seen.FEW = 0
    images = Folder(root=sys.argv[1]).train()
    transform = train_transform(Views(re_prob=1.0), (8, 8), 3, (0.5,) * 3, (0.2,) * 3)
    layout = loader.Layout(images=len(images), batch_size=6, epochs=1)
    sums = [[float(batch.views.sum()) for batch in
             loader.train_batches(images, transform, layout, seed=0, process=0, start_step=0, workers=workers)]
            for workers in (0, 1)]
    shown = [len(part.index) for part in seen.seen(images, [Terms((8, 8))], indices=range(6))]
    print(json.dumps([*sums, shown]))
"""


@pytest.mark.parametrize("start", [pytest.param("spawn", marks=pytest.mark.slow), "forkserver"])
def test_loaders_that_are_not_forked_give_the_same_views(tmp_path, start):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(8):
            NOISE.rotate(number).save(tmp_path / "photos" / name / f"{number}.png")
    (tmp_path / "loads.py").write_text(SPAWNED)
    command = [sys.executable, "loads.py", "photos", start]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    here, there, shown = json.loads(done.stdout)
    assert len(here) == 2
    assert here == there
    assert shown == [6]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere loaders begin as Python has it")
def test_on_linux_loaders_are_forked_whatever_python_would_do(request):
    request.addfinalizer(partial(multiprocessing.set_start_method, multiprocessing.get_start_method(), force=True))
    multiprocessing.set_start_method("spawn", force=True)
    images: Any = [(NOISE, 0)] * 4
    number = torch.tensor([7])
    batches = loader.in_order(images, lambda _: number, batch_size=2, workers=1)  # a closure, which cannot be pickled
    assert [batch.views.tolist() for batch in batches] == [[[7], [7]]] * 2
