"""Saved outputs teach as the teacher itself does, and only where they belong."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import students
from distill import Arrays, Optim, Recipe, Views
from distill.console import Console
from distill.loader import Layout
from distill.losses import CosineEmbedding, CrossEntropy, HardTargets, Hint, SoftTargets
from distill.options import RunOptions
from distill.preflight import check
from distill.saved.command import SaveOptions
from distill.saved.fit import check_source, checked
from distill.saved.manifest import Shard
from distill.saved.reader import SavedOutputs
from distill.saved.saving import save
from distill.saved.writer import check_room
from distill.script import recipe_of
from distill.teaching import make_teacher
from distill.train import train
from students import ViTConfig
from teachers import Teacher

pytestmark = pytest.mark.usefixtures("cpu_only")

CPU = torch.device("cpu")
IN_PROCESS = SaveOptions(threads=1, workers=0, shard_images=64)
TEACHER = ViTConfig(img_size=12, patch_size=4, in_chans=1, embed_dim=12, depth=2, num_heads=2, num_classes=5)


def make_data(folder: Path, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    images = {f"{split}_images": rng.integers(0, 256, (n, 12, 12), dtype=np.uint8) for split, n in SPLITS.items()}
    labels = {f"{split}_labels": rng.integers(0, 5, n) for split, n in SPLITS.items()}
    everything: dict[str, Any] = {**images, **labels, "classes": list("abcde")}
    np.savez(folder / f"data{seed}.npz", **everything)
    return Arrays(path=str(folder / f"data{seed}.npz"))


SPLITS = {"train": 100, "val": 20}  # of 32 a batch: 4 images of every epoch are left out


def make_teacher_folder(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    model = TEACHER.build()
    torch.nn.init.normal_(model.get_parameter("head.weight"), std=2.0)
    return students.save(model, folder / f"teacher{seed}")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    folder = tmp_path_factory.mktemp("recipe")
    return Recipe(
        student=replace(TEACHER, embed_dim=8, num_classes=None, distilled=True, drop_path_rate=0.1),
        teacher=Teacher(name=str(make_teacher_folder(folder, 0)), runtime="eager"),
        data=make_data(folder, 0),
        views=Views(scale=(0.5, 1.0), mixup=0.8, cutmix=1.0, re_prob=0.5, auto_augment="3a"),
        losses={
            "labels": CrossEntropy(weight=0.5),
            "hard": HardTargets(),
            "soft": SoftTargets(temperature=2.0),
            "embedding": CosineEmbedding(weight=0.5),
        },
        optim=Optim(epochs=2, batch_size=32, lr=2e-3, warmup_epochs=1, ema_decay=0.9),
    )


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory) -> Path:
    """Everything in float32, of 2 epochs: 4 shards."""
    folder = tmp_path_factory.mktemp("saved") / "whole"
    save(recipe, replace(IN_PROCESS, out=str(folder), k="all", dtype="float32", embedding=True), "whole")
    return folder


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def opened(folder: Path, recipe: Recipe) -> SavedOutputs:
    return SavedOutputs(folder, checked(folder, check(recipe)), CPU, verify=True)


def trained(recipe: Recipe, out: Path, saved: SavedOutputs | None, views_epochs: int | None = None):
    """The weights and the losses of a run, from saved outputs or from the teacher."""
    accelerator, plan = Accelerator(), check(recipe)
    if saved:
        plan = saved.shown_in(plan)
    plan = replace(plan, layout=replace(plan.layout, views_epochs=views_epochs or plan.layout.views_epochs))
    teacher = None if saved else make_teacher(recipe, accelerator, Console(main=False), layers=(), head=None)
    out.mkdir(exist_ok=True)
    options = RunOptions(log_every_steps=1, checkpoint_every_steps=2)
    student = train(plan, teacher, accelerator, out, options, Console(main=False), workers=0, saved=saved)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return student.state_dict(), [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def assert_same(one, other):
    assert one[1] == other[1]
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])


def test_all_in_float32_trains_bit_for_bit_like_the_teacher_also_over_a_resume(recipe, whole, tmp_path):
    online = trained(recipe, tmp_path / "online", None)
    assert_same(trained(recipe, tmp_path / "saved", opened(whole, recipe)), online)
    assert len(online[1]) == 6 + 2

    # Without the last checkpoint the run goes on from the one before.
    shutil.rmtree(tmp_path / "saved" / "checkpoints" / "step_000000006")
    assert_same(trained(recipe, tmp_path / "saved", opened(whole, recipe)), online)

    # Other outputs train another student, so the teacher's numbers do arrive.
    other = tmp_path / "k1"
    save(recipe, replace(IN_PROCESS, out=str(other), k=1, embedding=True), "k1")
    changed = trained(recipe, tmp_path / "changed", opened(other, recipe))
    assert changed[1][0]["loss/soft"] != online[1][0]["loss/soft"]
    assert changed[1][0]["loss/hard"] == online[1][0]["loss/hard"]  # the decisions are the same


def test_a_longer_run_shows_the_saved_epochs_in_turn(recipe, whole, tmp_path):
    layout = Layout(images=5, batch_size=2, epochs=3, views_epochs=2)
    assert list(layout.parts(0, 0)) == [(0, 0), (0, 2), (1, 0), (1, 2), (0, 0), (0, 2)]
    longer = replace(recipe, optim=replace(recipe.optim, epochs=3))
    from_saved = trained(longer, tmp_path / "saved", opened(whole, longer))
    assert_same(from_saved, trained(longer, tmp_path / "online", None, views_epochs=2))


def optim(**changes):
    return lambda recipe, tmp: replace(recipe, optim=replace(recipe.optim, **changes))


def views(**changes):
    return lambda recipe, tmp: replace(recipe, views=replace(recipe.views, **changes))


def student(**changes):
    return lambda recipe, tmp: replace(recipe, student=replace(recipe.student, **changes))


def teacher(**changes):
    return lambda recipe, tmp: replace(recipe, teacher=replace(recipe.teacher, **changes))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda recipe, tmp: replace(recipe, seed=1), "seed: 0 -> 1"),
        (lambda recipe, tmp: replace(recipe, data=make_data(tmp, 1)), "data: "),
        (optim(batch_size=16), "batch_size: 32 -> 16"),
        (views(mixup=0.5), "views.mixup: 0.8 -> 0.5"),
        (views(scale=(0.4, 1.0)), r"views.scale: \[0.5, 1.0\] -> \[0.4, 1.0\]"),
        (views(img_size=16), "views.img_size: null -> 16; views.size"),
        (student(mean=(0.3,)), r"views.mean: \[0.449\] -> \[0.3\]"),
        (student(in_chans=3), "views.channels: 1 -> 3"),
        (teacher(img_size=16), "teacher.img_size: null -> 16"),
        (teacher(head="fit"), 'teacher.head: "own" -> "fit"'),
        (lambda recipe, tmp: teacher(name=str(make_teacher_folder(tmp, 1)))(recipe, tmp), "teacher.name: .*_files"),
    ],
)
def test_outputs_of_other_views_or_of_another_teacher_are_refused_by_field(recipe, whole, tmp_path, change, field):
    with pytest.raises(ValueError, match=rf"was saved for something else \({field}.*save into another folder"):
        opened(whole, change(recipe, tmp_path))


def test_other_weights_under_the_same_name_are_refused(recipe, whole, tmp_path):
    folder = Path(recipe.teacher.name)
    kept = shutil.copytree(folder, tmp_path / "kept")
    try:
        shutil.copyfile(make_teacher_folder(tmp_path, 3) / "model.safetensors", folder / "model.safetensors")
        with pytest.raises(ValueError, match=r"\(teacher_files: "):
            opened(whole, recipe)
    finally:
        shutil.copyfile(kept / "model.safetensors", folder / "model.safetensors")
    opened(whole, recipe)


def test_how_the_teacher_runs_and_how_the_student_learns_may_change(recipe, whole):
    other = replace(
        recipe,
        student=replace(recipe.student, depth=1),
        teacher=replace(recipe.teacher, runtime="auto"),
        losses={"soft": SoftTargets(), "labels": CrossEntropy(head="class")},
        optim=replace(recipe.optim, lr=1e-4, epochs=7),
    )
    assert opened(whole, other).shown_in(check(other)).layout.views_epochs == 2


def test_a_loss_that_reads_what_was_not_saved_is_refused(recipe, whole, tmp_path):
    hint = replace(recipe, losses=recipe.losses | {"hint": Hint(pairs=((0, 1),))})
    with pytest.raises(ValueError, match=r"loss 'hint' reads grids of the teacher.*use --losses.hint.weight 0"):
        opened(whole, hint)
    lean = tmp_path / "lean"
    save(recipe, replace(IN_PROCESS, out=str(lean), epochs=1), "lean")
    with pytest.raises(ValueError, match=r"'embedding' reads the teacher's embedding.*save again with --embedding"):
        opened(lean, recipe)
    with pytest.raises(ValueError, match="this run has no teacher; leave out --saved or --alone"):
        opened(whole, recipe.without_teacher())


def first_shard(folder: Path) -> Path:
    return folder / "epoch_0000" / "shard_00000.bin"


def test_a_damaged_shard_is_refused_by_name(recipe, copy, tmp_path):
    data = bytearray(first_shard(copy).read_bytes())
    data[5] ^= 1
    first_shard(copy).write_bytes(data)
    saved = opened(copy, recipe)
    with pytest.raises(ValueError, match=r"epoch_0000/shard_00000.bin is damaged: it does not match its checksum"):
        saved.verify_all(Console(main=False))
    with pytest.raises(ValueError, match=r"epoch_0000/shard_00000.bin is damaged.*remove that file and save again"):
        trained(recipe, tmp_path / "run", saved)

    # Which is what then mends it.
    first_shard(copy).unlink()
    with pytest.raises(ValueError, match=r"is not whole: epoch_0000/shard_00000.bin is missing or cut short"):
        opened(copy, recipe)
    save(recipe, replace(IN_PROCESS, out=str(copy), k="all", dtype="float32", embedding=True), "copy")
    opened(copy, recipe).verify_all(Console(main=False))


def test_a_shard_cut_short_or_without_a_checksum_is_refused(recipe, copy):
    first_shard(copy).with_suffix(".sha256").unlink()
    with pytest.raises(ValueError, match=r"shard_00000.sha256, the checksum of shard_00000.bin, cannot be read"):
        opened(copy, recipe).verify_all(Console(main=False))
    first_shard(copy).write_bytes(first_shard(copy).read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"shard_00000.bin is missing or cut short"):
        opened(copy, recipe)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "not as this version writes it .*format 2"),
        ({"epochs": -1}, "-1 is no whole number above 0"),
        ({"positions": 10**15}, "positions: 1000000000000000 -> 96"),
        ({"shard_images": 40}, "has shards of 40 images, which are no whole batches"),
        ({"shard_images": "../../etc"}, "'../../etc' is no whole number"),
        ({"answers": {"num_classes": 9, "k": None, "dtype": "float32"}}, "num_classes: 9 -> 5"),
        ({"answers": {"num_classes": 5, "k": 5, "dtype": "float32"}}, "k is 5 but the teacher has 5 classes"),
        ({"answers": {"num_classes": 5, "k": None, "dtype": "O"}}, "dtype 'O'"),
        ({"answers": {"num_classes": 5, "k": None, "dtype": "float32", "embedding": 10**9}}, "embedding: 1000000000"),
        ({"answers": {"num_classes": 5}}, "not as this version writes it"),
        ({"glimpse": [[0.5] * 4] * 16}, "views of .* were drawn differently.*versions .*timm"),
        ({"made_with": 3}, "made_with is no object"),
    ],
)
def test_a_manifest_that_was_tampered_with_is_refused(recipe, copy, change, message):
    file = copy / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        opened(copy, recipe)


def test_a_folder_without_a_manifest_is_refused(recipe, tmp_path):
    with pytest.raises(ValueError, match=r"holds no saved outputs .*write them with python -m distill save"):
        opened(tmp_path, recipe)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"is not JSON"):
        opened(tmp_path, recipe)


def test_saving_more_epochs_goes_on_and_other_options_are_refused(recipe, whole, tmp_path):
    grown, once = tmp_path / "grown", replace(IN_PROCESS, k="all", dtype="float32", embedding=True, epochs=1)
    save(recipe, replace(once, out=str(grown)), "grown")
    stamp = first_shard(grown).stat().st_mtime_ns
    save(recipe, replace(once, out=str(grown), epochs=2), "grown")
    assert contents(grown) == contents(whole)
    assert first_shard(grown).stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match=r"holds 2 epochs already; use --epochs 2 or more"):
        save(recipe, replace(once, out=str(grown)), "grown")
    with pytest.raises(ValueError, match=r'answers.dtype: "float32" -> "float16"'):
        save(recipe, replace(once, out=str(grown), dtype="float16", epochs=2), "grown")
    with pytest.raises(ValueError, match="seed: 0 -> 4"):
        save(replace(recipe, seed=4), replace(once, out=str(grown), epochs=2), "grown")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 5}, "k is 5 but the teacher has 5 classes; use 1 to 4, or all"),
        ({"epochs": 0}, "--epochs is 0; use 1 or more"),
        ({"shard_images": 0}, "--shard-images is 0; use 1 or more"),
        ({"images_at_once": 5}, "--images-at-once is 5 and the recipe's batch is 32; use a number that divides it"),
        ({"images_at_once": 1}, "and an even one, for mixing"),
    ],
)
def test_options_out_of_range_are_said_before_anything_is_written(recipe, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        save(recipe, replace(IN_PROCESS, out=str(tmp_path / "out"), **options), "out")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing_and_a_foreign_folder_is_never_taken(recipe, tmp_path, capsys):
    save(recipe, replace(IN_PROCESS, out=str(tmp_path / "dry"), dry_run=True, k=2), "dry")
    assert "size" in (shown := capsys.readouterr().out)
    assert "2.3 kB: 12 bytes an image and epoch" in shown  # 2 epochs × 96 images × (2 × 4 + 4) bytes
    assert not (tmp_path / "dry").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"precious")
    with pytest.raises(ValueError, match="photos is not empty and holds no saved outputs"):
        save(recipe, replace(IN_PROCESS, out=str(tmp_path / "photos")), "photos")


def test_a_disk_without_the_room_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the outputs take 4.04e\+05 TB but the disk of .* use a smaller --k"):
        check_room([Shard(0, 0, 10**15, tmp_path / "shard")], 404, tmp_path / "to" / "be" / "made")


def test_a_run_is_resumed_only_by_what_taught_it(recipe, whole, copy, tmp_path):
    saved, out = opened(whole, recipe), tmp_path / "run"
    out.mkdir()
    check_source(out, None)
    with pytest.raises(ValueError, match=r"not taught by what teaches now \(--saved: no -> yes\)"):
        check_source(out, saved)
    saved.note_in(out)
    check_source(out, saved)
    check_source(out, opened(copy, recipe))  # the same outputs in another place
    with pytest.raises(ValueError, match=r"--saved: yes -> no"):
        check_source(out, None)
    save(recipe, replace(IN_PROCESS, out=str(copy), k="all", dtype="float32", embedding=True, epochs=3), "copy")
    with pytest.raises(ValueError, match=r"\(epochs: 2 -> 3\).*start over with --resume never"):
        check_source(out, opened(copy, recipe))


def test_a_script_without_a_recipe_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is no recipe .*nowhere.py"):
        recipe_of(tmp_path / "nowhere.py")
    (tmp_path / "empty.py").write_text("recipe = 3\n")
    with pytest.raises(ValueError, match=r"empty.py has no Recipe named recipe"):
        recipe_of(tmp_path / "empty.py")
