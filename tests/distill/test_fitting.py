"""A teacher of the user's classes: what is in the folder is what was fitted, measured, and can be gone on with."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from rich.console import Console as Rich
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

import students
from distill import Arrays, Optim, Recipe, Views
from distill.console import Console
from distill.data import Images
from distill.fitting import options as fitting_options
from distill.fitting.command import parse
from distill.fitting.finetune import fine_tune
from distill.fitting.fit import fit
from distill.fitting.options import FineTune, Fit
from distill.fitting.task import open_task
from distill.losses import CrossEntropy, SoftTargets
from distill.preflight import check
from students import ViTConfig
from teachers import Teacher, folder, source
from teachers.calibration import calibration_error, reliability

CLASSES = ("dark", "half", "light")
SHORT = Optim(epochs=2, batch_size=16, lr=1e-3, warmup_epochs=0.5, warmup_lr=0.0)
CONFIG = ViTConfig(img_size=16, patch_size=8, in_chans=1, embed_dim=8, depth=2, num_heads=2, num_classes=None)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Noisy images that are dark, half or light, and a teacher of five other classes, random but of real kind."""
    place = tmp_path_factory.mktemp("fitting")
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"classes": list(CLASSES)}
    for split, images in (("train", 160), ("val", 90)):
        labels = rng.integers(0, 3, images)
        levels = (
            60 + 50 * labels[:, None, None] + rng.normal(0, 40, (images, 16, 16)) + rng.normal(0, 30, (images, 1, 1))
        )
        arrays |= {f"{split}_images": levels.clip(0, 255).astype(np.uint8), f"{split}_labels": labels}
    np.savez(place / "data.npz", **arrays)
    torch.manual_seed(0)
    students.save(replace(CONFIG, embed_dim=24, num_classes=5).build(), place / "vit")
    plan = source.plan(Teacher(name="test_resnet", img_size=32))
    resnet = timm.create_model("test_resnet", num_classes=5).eval()
    x = torch.rand(2, 3, 32, 32)
    folder.save(resnet, place / "resnet", plan, x, label_names=list("abcde"), crop_pct=1.0, interpolation="bicubic")
    return Recipe(
        student=CONFIG,
        teacher=Teacher(name=str(place / "vit"), head="fit", runtime="eager"),
        data=Arrays(path=str(place / "data.npz")),
        views=Views(scale=(0.5, 1.0), crop_pct=1.0),
        losses={"labels": CrossEntropy(), "soft": SoftTargets()},
    )


def resnet(recipe: Recipe) -> Recipe:
    assert recipe.teacher is not None
    name = str(Path(recipe.teacher.name).with_name("resnet"))
    return replace(recipe, teacher=replace(recipe.teacher, name=name))


def fitted(recipe: Recipe, out: Path, options: Fit | None = None) -> Path:
    return fit(recipe, options or Fit(), out, Accelerator(cpu=True), Console(main=False), command="COMMAND", workers=0)


def tuned(recipe: Recipe, out: Path, **options: Any) -> Path:
    chosen = FineTune(**{"optim": SHORT, **options})
    return fine_tune(recipe, chosen, out, Accelerator(cpu=True), Console(main=False), command="COMMAND", workers=0)


def images_of(recipe: Recipe) -> str:
    assert isinstance(recipe.data, Arrays)
    return recipe.data.path


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "teacher.json").read_text())["results"]


def validation_logits(recipe: Recipe, out: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """What timm itself loads from a folder says of the validation images, and their labels."""
    teacher = Teacher(name=str(out), runtime="eager").build()
    with np.load(images_of(recipe)) as data:
        views, labels = torch.from_numpy(data["val_images"])[:, None], torch.from_numpy(data["val_labels"])
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    with torch.no_grad():
        logits = model(teacher.preprocess(views))
    torch.testing.assert_close(teacher(views).logits, logits, atol=1e-5, rtol=0)
    return logits, labels


@pytest.mark.parametrize("kind", [lambda recipe: recipe, resnet], ids=["vit", "resnet"])
def test_a_fitted_teacher_is_what_its_card_says(recipe: Recipe, tmp_path: Path, kind) -> None:
    recipe = kind(recipe)
    out = fitted(recipe, tmp_path / "made", Fit(epochs=2))
    logits, labels = validation_logits(recipe, out)
    found = results(out)
    for name, scale in (("calibrated", 1.0), ("uncalibrated", found["temperature"])):
        assert found[name]["labelled"] == 90
        assert found[name]["top1"] == float((logits.argmax(1) == labels).double().mean())
        assert found[name]["nll"] == pytest.approx(float(cross_entropy(scale * logits, labels)), abs=1e-5)
        assert found[name]["ece"] == pytest.approx(calibration_error(reliability(scale * logits, labels)), abs=1e-5)
    assert found["calibrated"]["top1"] > 0.6  # by chance 0.33
    card = (out / "README.md").read_text()
    assert f"| top-1 % (95 % interval) | {100 * found['calibrated']['top1']:.2f} [" in card
    assert "COMMAND" in card
    assert "144 training images, 16 more held out of them, 90 for validation" in card
    assert {path.name for path in out.iterdir()} == {"README.md", "config.json", "model.safetensors", "teacher.json"}
    # It goes back in by its name, and knows the classes without a fit.
    teacher = Teacher(name=str(out))
    assert teacher.label_names() == CLASSES
    plan = check(replace(recipe, teacher=teacher, optim=SHORT))
    assert plan.teacher is not None
    assert plan.teacher.num_classes == 3


def test_features_are_computed_once(recipe: Recipe, tmp_path: Path) -> None:
    fitted(recipe, tmp_path / "one", Fit(epochs=1))
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "features").rglob("view_*.npy")}
    assert sorted(path.name for path in files) == ["view_0_0.npy", "view_1_0.npy"]
    assert all(np.load(path, mmap_mode="r").shape == (160, 24) for path in files)
    assert all(np.load(path, mmap_mode="r").dtype == np.float16 for path in files)
    fitted(recipe, tmp_path / "two", Fit(epochs=2, heldout=0.2))  # one more view, another split
    assert all(path.stat().st_mtime_ns == written for path, written in files.items())
    assert len(list((tmp_path / "cache" / "features").rglob("view_*.npy"))) == 3
    fitted(recipe, tmp_path / "three", Fit(epochs=1))
    one, three = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "three"))
    assert all(torch.equal(one[name], three[name]) for name in one)
    fitted(recipe, tmp_path / "four", Fit(epochs=0, keep_features=False, images=100))
    assert len(list((tmp_path / "cache" / "features").rglob("view_*.npy"))) == 3


def test_a_finished_or_foreign_folder_is_left_alone(recipe: Recipe, tmp_path: Path) -> None:
    out = fitted(recipe, tmp_path / "made")
    written = (out / "model.safetensors").stat().st_mtime_ns
    fitted(recipe, out)
    with pytest.raises(ValueError, match=r"was made in another way \(epochs: 1 -> 3\); choose another folder"):
        fitted(recipe, out, Fit(epochs=3))
    assert (out / "model.safetensors").stat().st_mtime_ns == written
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    for run in (fitted, tuned):
        with pytest.raises(ValueError, match=r"photos is not empty and holds no teacher\.json; choose another folder"):
            run(recipe, tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_fine_tuning_learns_and_moves_the_first_layer_too(recipe: Recipe, tmp_path: Path) -> None:
    out = tuned(recipe, tmp_path / "made", optim=replace(SHORT, epochs=6, lr=5e-3), layer_decay=1.0)
    logits, labels = validation_logits(recipe, out)
    found = results(out)
    assert found["calibrated"]["top1"] == float((logits.argmax(1) == labels).double().mean())
    assert found["calibrated"]["top1"] > 0.6
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    before, after = load_file(f"{teacher_name(recipe)}/model.safetensors"), load_file(out / "model.safetensors")
    assert float((after["patch_embed.proj.weight"] - before["patch_embed.proj.weight"]).abs().max()) > 1e-3


def test_a_model_that_lost_by_fine_tuning_is_told_of(recipe: Recipe, tmp_path: Path) -> None:
    console = Console()
    console.rich = Rich(file=StringIO(), width=400)
    options = FineTune(optim=replace(SHORT, epochs=1, lr=2.0, clip_grad=None))
    fine_tune(recipe, options, tmp_path / "made", Accelerator(cpu=True), console, command="COMMAND", workers=0)
    said = console.rich.file.getvalue()  # type: ignore[attr-defined]
    found = re.search(r"note: the fitted head alone decided ([\d.]+)% .* the fine-tuned model ([\d.]+)%;", said)
    assert found
    head, tuned = found.groups()
    assert float(head) > float(tuned) + 2
    assert f"held-out images: top-1 {tuned}%" in said


def teacher_name(recipe: Recipe) -> str:
    assert recipe.teacher is not None
    return recipe.teacher.name


def test_layer_decay_spares_the_early_layers(recipe: Recipe, tmp_path: Path) -> None:
    out = tuned(recipe, tmp_path / "made", layer_decay=1e-3)
    before, after = load_file(f"{teacher_name(recipe)}/model.safetensors"), load_file(out / "model.safetensors")

    def moved(name: str) -> float:
        return float((after[name] - before[name]).abs().max())

    # The head moves at lr, the block below it at a thousandth of that, the next at a millionth.
    assert moved("blocks.1.mlp.fc1.weight") == pytest.approx(1e-5, rel=0.9)
    assert moved("blocks.0.mlp.fc1.weight") < 1e-7
    assert moved("patch_embed.proj.weight") < 1e-7


def test_frozen_batch_norms_keep_their_statistics(recipe: Recipe, tmp_path: Path) -> None:
    before = load_file(f"{teacher_name(resnet(recipe))}/model.safetensors")
    names = [name for name in before if "running" in name]
    changed = {}
    for kind in ("frozen", "train"):
        after = load_file(tuned(resnet(recipe), tmp_path / kind, batch_norm=kind) / "model.safetensors")
        changed[kind] = sum(not torch.equal(after[name], before[name]) for name in names)
    assert changed == {"frozen": 0, "train": len(names)}


def test_a_teacher_of_as_many_classes_starts_from_its_own_head(recipe: Recipe, tmp_path: Path) -> None:
    first = fitted(recipe, tmp_path / "first")
    again = replace(recipe, teacher=Teacher(name=str(first), runtime="eager"))
    still = tuned(again, tmp_path / "still", optim=replace(SHORT, epochs=1, lr=1e-12, min_lr=0.0, warmup_epochs=0))
    one, two = load_file(first / "model.safetensors"), load_file(still / "model.safetensors")
    # Nothing moves but by the temperature, which was right already but for the split.
    torch.testing.assert_close(one["head.weight"], two["head.weight"] * results(still)["temperature"])
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 1  # those of the first


@dataclass(frozen=True, kw_only=True)
class Unplugged(Arrays):
    """Arrays on a disk that can be unplugged."""

    def train(self) -> Any:
        return Disk(super().train())


class Disk:
    reads_left: int | None = None

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        if Disk.reads_left is not None:
            Disk.reads_left -= 1
            if Disk.reads_left < 0:
                raise OSError("unplugged")
        return self.images[index]


def test_a_broken_off_fine_tuning_goes_on_and_ends_bit_for_bit_alike(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(resnet(recipe), data=Unplugged(path=images_of(recipe)), views=replace(recipe.views, mixup=0.2))
    whole = tuned(recipe, tmp_path / "whole", checkpoint_every_steps=5)
    # 288 views for the head's features, then 16 a step: it breaks off in the eighth.
    monkeypatch.setattr(Disk, "reads_left", 288 + 7 * 16 + 3)
    with pytest.raises(OSError, match="unplugged"):
        tuned(recipe, tmp_path / "broken", checkpoint_every_steps=5)
    monkeypatch.setattr(Disk, "reads_left", None)
    assert [path.name for path in (tmp_path / "broken" / "checkpoints").iterdir()] == ["step_000000005"]
    broken = tuned(recipe, tmp_path / "broken", checkpoint_every_steps=5)
    one, two = load_file(whole / "model.safetensors"), load_file(broken / "model.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert results(whole) == results(broken)
    assert not (broken / "checkpoints").exists()


def test_held_out_images_are_drawn_once_and_are_no_others(recipe: Recipe) -> None:
    task = open_task(recipe, heldout=0.25, optim=SHORT)
    assert int(task.held_out.sum()) == 40
    assert (len(task.part(held_out=True)), len(task.part(held_out=False)), task.layout.images) == (40, 120, 120)
    again = open_task(replace(recipe, seed=3), heldout=0.25, optim=SHORT)
    assert (task.held_out == again.held_out).all()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda r: replace(r, teacher=None), {}, "the recipe has no teacher to fit"),
        (lambda r: r, {"heldout": 0.97}, "155 are held out, and 5 are too few for a batch of 16"),
        (lambda r: replace(r, views=Views(scale=(2, 3))), {}, "views.scale is (2, 3)"),
        (lambda r: r, {"optim": replace(SHORT, lr=0.0)}, "optim.lr is 0.0"),
        (lambda r: replace(r, teacher=Teacher(name="reznet18")), {}, "resnet18"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_read(recipe: Recipe, change, options, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        open_task(change(recipe), **{"heldout": 0.1, "optim": SHORT, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Fit(epochs=-1), "--epochs is -1; use 0 or more"),
        (Fit(images=0), "--images is 0; use 1 or more"),
        (Fit(heldout=1.0), "--heldout is 1.0; use a share between 0 and 1"),
        (FineTune(layer_decay=0.0), "--layer-decay is 0.0; use a share above 0"),
        (FineTune(smoothing=1.0), "--smoothing is 1.0"),
        (FineTune(workers=-1), "--workers is -1"),
        (FineTune(out=""), "--out is empty"),
    ],
)
def test_options_out_of_range(options: Fit | FineTune, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        fitting_options.check(options)


def test_a_recipes_script_gives_teacher_data_and_views() -> None:
    script = Path(__file__).parents[2] / "recipes" / "quickstart.py"
    recipe, options = parse("fine-tune", script, ["--teacher.img-size", "64", "--optim.epochs", "3", "--seed", "4"])
    assert isinstance(recipe.teacher, Teacher)
    assert isinstance(options, FineTune)
    assert (recipe.teacher.name, recipe.teacher.img_size) == ("tf_efficientnet_lite0", 64)
    assert (recipe.seed, recipe.views.scale, options.optim.epochs) == (4, (0.6, 1.0), 3)
    for kind, option, way in (
        ("fit", "--teacher.class-map names", "leave it out"),
        ("fine-tune", "--teacher.calibrate", "leave it out"),
        ("fit", "--teacher.fit-images 99", "use --images"),
    ):
        with pytest.raises(ValueError, match=f"{option.split()[0]} is for a run; .*: {way}"):
            parse(kind, script, option.split())
    with pytest.raises(ValueError, match=r"there is no recipe nowhere\.py; name a script such"):
        parse("fit", Path("nowhere.py"), [])
    with pytest.raises(ValueError, match="has no Recipe named recipe"):
        parse("fit", Path(__file__).parents[1] / "conftest.py", [])


def test_an_error_on_the_command_line_is_one_line(world) -> None:
    script = Path(__file__).parents[1] / "tiny_recipe.py"
    where = ["--data.path", str(world.data), "--teacher.name", "resnet5O", "--out", "made"]
    done = world.call("-m", "distill", "teacher", "fit", str(script), *where)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no teacher 'resnet5O'")
    assert "resnet50" in done.stderr
    assert "\n" not in done.stderr.strip()
    assert not (world.folder / "made").exists()


def test_two_processes_make_the_teacher_of_one(recipe: Recipe, world) -> None:
    # Batch norms are frozen where processes are compared, because each would see the statistics of its own part.
    script = Path(__file__).parents[1] / "tiny_recipe.py"
    where = ["--data.path", str(world.data), "--teacher.name", teacher_name(resnet(recipe)), "--batch-norm", "frozen"]
    where += ["--teacher.fit-images", "120", "--optim.epochs", "1", "--log-every-steps", "1", "--workers", "0"]
    one, two = world.folder / "one", world.folder / "two"
    tiny, options = parse("fine-tune", script, where)
    assert isinstance(options, FineTune)
    fine_tune(tiny, options, one, Accelerator(cpu=True), Console(main=False), command="COMMAND", workers=0)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "distill"]
    done = subprocess.run(
        [sys.executable, *launcher, "teacher", "fine-tune", str(script), *where, "--out", "two", "--threads", "1"],
        cwd=world.folder, env=world.environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [(out / "metrics.jsonl").read_text().splitlines() for out in (one, two)]
    losses = [[json.loads(line)["loss"] for line in of_run] for of_run in lines]
    assert len(losses[0]) == 9
    # In another order of sums the fitted head ends elsewhere, up to 0.2 % of its largest logit, which is about 15.
    # Where gradients are not shared, the losses are 0.06 apart in the fourth step and 0.4 in the last.
    assert losses[0] == pytest.approx(losses[1], abs=1e-2)
    assert results(one)["temperature"] == pytest.approx(results(two)["temperature"], rel=1e-2)
    assert results(two)["calibrated"]["labelled"] == 200
    assert results(one)["calibrated"]["nll"] == pytest.approx(results(two)["calibrated"]["nll"], abs=1e-2)
