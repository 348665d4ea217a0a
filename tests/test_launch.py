"""Real processes: a run and its folder, kill and resume, two processes, and errors as a user meets them."""

import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import students
from distill import Arrays
from distill.folder import REPORTS, read_recipe
from distill.recipe import to_json
from students.preprocess import Preprocess

SINGLE_THREAD = ("--threads", "1")
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "model.safetensors")


def metrics(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def report(run: Path) -> dict:
    return json.loads((run / "report.json").read_text())


def test_a_run_leaves_a_folder_that_others_can_use(world):
    done = world.run("--checkpoint-every-steps", "15", "--trackers", "tensorboard")
    assert done.returncode == 0, done.stderr
    run = world.folder / "runs" / "tiny_recipe"
    assert {path.name for path in run.iterdir()} >= {"recipe.json", "metrics.jsonl", *REPORTS}
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_000000030", "step_000000040"]
    made = world.folder / "made_here"
    made.touch()  # with what the umask leaves
    files = [path for path in world.folder.rglob("*") if path.is_file()]
    assert [path for path in files if path.stat().st_mode != made.stat().st_mode] == []

    teacher, student = report(run)["models"]
    assert (teacher["role"], student["role"]) == ("teacher", "student")
    assert teacher["images"] == student["images"] == 200
    assert student["params"] == sum(w.numel() for w in weights(run).values())
    assert student["kept"] == pytest.approx(student["top1"] / teacher["top1"])
    assert student["top1_interval"][0] < student["top1"] < student["top1_interval"][1]

    lines = metrics(run)
    losses = [line for line in lines if "loss" in line]
    assert [line["step"] for line in losses] == [10, 20, 30, 40]
    for line in losses:
        falling = 1 - (line["step"] - 1) / 40
        total = 0.5 * line["loss/labels"] + 0.5 * line["loss/hard"] + line["loss/hint"]
        total += 2 * falling * line["loss/dist"] + 0.1 * line["loss/crd"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)
    assert [line["epoch"] for line in lines if "val/top1" in line] == [1, 2, 3, 4]
    assert lines[-1]["val/top1"] == pytest.approx(student["top1"])
    assert list((run / "distill").glob("events*"))

    # The teacher is in no checkpoint, and the projections are not in the student.
    checkpoint = load_file(run / "checkpoints" / "step_000000040" / "model.safetensors")
    assert {name.split(".")[0] for name in checkpoint} == {"student", "projections"}
    assert not any("projections" in name for name in weights(run))

    # recipe.json rebuilds the same recipe; timm and we load the same student.
    recipe = read_recipe(run)
    assert to_json(recipe) == json.loads((run / "recipe.json").read_text())
    assert (recipe.student.depth, recipe.optim.ema_decay, recipe.data) == (2, 0.95, Arrays(path=str(world.data)))
    ours = students.load(run / "student")
    theirs = timm.create_model(f"local-dir:{run / 'student'}", pretrained=True).eval()
    views = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    x = Preprocess((28, 28), recipe.student.input_mean, recipe.student.input_std)(views)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-6)

    # The same command again has nothing to do, and another recipe may not take the folder.
    before = (run / "report.json").stat().st_mtime_ns
    again = world.here()
    assert again.returncode == 0
    assert "is finished; nothing to do" in again.stdout
    other = world.here("--optim.epochs", "9")
    assert other.returncode == 2
    assert "holds a run of another recipe (optim.epochs: 4 -> 9)" in other.stderr
    assert (run / "report.json").stat().st_mtime_ns == before

    # Comparing again gives the same numbers, beside the baseline.
    alone = world.here("--alone")
    assert alone.returncode == 0, alone.stderr
    baseline = world.folder / "runs" / "tiny_recipe-alone"
    assert [model["role"] for model in report(baseline)["models"]] == ["baseline"]
    both = world.folder / "both"
    compared = world.call("-m", "distill", "compare", str(run), str(baseline), "--out", str(both), "--no-cost")
    assert compared.returncode == 0, compared.stderr
    rows = report(both)["models"]
    assert [model["role"] for model in rows] == ["teacher", "student", "baseline"]
    assert [model["top1"] for model in rows[:2]] == [teacher["top1"], student["top1"]]
    assert "points of top-1 from tiny_recipe-alone" in compared.stdout


def test_a_killed_run_goes_on_and_ends_bit_for_bit_like_one_that_was_not(world):
    options = ("--checkpoint-every-steps", "6", "--log-every-steps", "1", *SINGLE_THREAD)
    whole = world.folder / "whole"
    assert world.here("--out", str(whole), *options, "--workers", "0").returncode == 0

    killed = world.folder / "killed"
    for lines in (9, 26):
        process = subprocess.Popen(
            world.command("--out", str(killed), *options, "--workers", "2"),
            cwd=world.folder, env=world.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for(lambda lines=lines: count_lines(killed / "metrics.jsonl") >= lines, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (killed / "report.json").exists()
    finished = world.here("--out", str(killed), *options, "--workers", "2")
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"resumed after step (18|24) of 40", finished.stdout)
    assert re.search(r"\ntook \d:\d\d since it went on, with at most ", finished.stdout)

    one, other = weights(whole), weights(killed)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert metrics(whole) == metrics(killed)
    assert [m["top1"] for m in report(whole)["models"]] == [m["top1"] for m in report(killed)["models"]]


def count_lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for(condition, process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)


def assert_alike(one: Path, other: Path, weights_within: float = 1e-4) -> None:
    """The same lines of metrics.jsonl to 1e-4, and the same students."""
    for a, b in zip(metrics(one), metrics(other), strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    for name, weight in weights(one).items():
        assert torch.allclose(weight, weights(other)[name], atol=weights_within), name


def test_two_processes_and_accumulation_give_the_losses_and_weights_of_one(world):
    # A hint's channel statistics are those of what is seen at once, so accumulation is compared without them.
    same = ("--log-every-steps", "1", "--optim.epochs", "2", "--workers", "0", *SINGLE_THREAD)
    one, two, parts = (world.folder / name for name in ("one", "two", "parts"))
    assert world.here("--out", str(one), *same).returncode == 0
    launched = world.run("--out", str(two), *same, launcher=TWO_PROCESSES)
    assert launched.returncode == 0, launched.stderr
    assert "64 images = 2 processes × 32" in launched.stdout

    assert_alike(one, two)
    assert report(one)["models"][1]["top1"] == pytest.approx(report(two)["models"][1]["top1"], abs=0.01)

    # Accumulation shows fewer images at once to what compares them.
    plain = (*same, "--losses.hint.no-normalize", "--losses.dist.gamma", "0", "--losses.crd.weight", "0")
    assert world.here("--out", str(one), *plain, "--resume", "never").returncode == 0
    accumulated = world.here("--out", str(parts), *plain, ACCELERATE_GRADIENT_ACCUMULATION_STEPS="2")
    assert accumulated.returncode == 0, accumulated.stderr
    assert "64 images = 2 accumulated × 32" in accumulated.stdout
    for a, b in zip(metrics(one), metrics(parts), strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_a_resume_that_accumulates_otherwise_takes_whole_steps(world):
    plain = ("--losses.hint.no-normalize", "--losses.dist.gamma", "0", "--losses.crd.weight", "0", *SINGLE_THREAD)
    options = ("--log-every-steps", "1", "--optim.epochs", "2", "--workers", "0", "--checkpoint-every-steps", "15")
    whole, resumed = world.folder / "whole", world.folder / "resumed"
    assert world.here("--out", str(whole), *plain, *options).returncode == 0
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints" / "step_000000020")
    (resumed / "report.json").unlink()
    # 15 micro-batches were taken, of which two are no longer a multiple.
    done = world.here("--out", str(resumed), *plain, *options, ACCELERATE_GRADIENT_ACCUMULATION_STEPS="2")
    assert done.returncode == 0, done.stderr
    assert "resumed after step 15 of 20" in done.stdout
    assert_alike(whole, resumed, weights_within=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--losses.hint.pairs", "7", "0"), "loss 'hint': in the student, there is no layer 7; it has 2 layers"),
        (("--student.no-distilled", "--losses.hard.head", "token"), "the student has none; use --student.distilled"),
        (("--data.path", "nowhere.npz"), "/nowhere.npz; name an .npz file with --data.path"),
        (("--teacher.name", "resnet5O"), "resnet50"),
        (("--student.num-classes", "7"), "student has 7 classes but the data has 10"),
        (("--out", "/proc/run"), "cannot be written"),
        (("--log-every-steps", "0"), "--log-every-steps is 0; use 1 or more"),
        (("--trackers", "wandb"), "tracker 'wandb' is not installed"),
    ],
)
def test_what_a_user_can_mend_ends_in_one_line(world, options, message):
    assert_one_line(world, world.here(*options), 2, message)


def test_a_process_whose_loss_is_not_finite_ends_in_one_line(world):
    done = world.run("--optim.lr", "1e30", "--optim.warmup-epochs", "0", "--optim.clip-grad", "None")
    assert_one_line(world, done, 1, "is nan")


def assert_one_line(world, done: subprocess.CompletedProcess, code: int, message: str) -> None:
    assert done.returncode == code
    lines = [line for line in done.stderr.strip().splitlines() if "Warning" not in line]
    assert message in lines[-1]
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in done.stdout + done.stderr
    assert not (world.folder / "runs" / "tiny_recipe" / "report.json").exists()


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (("--losses.hard.wieght", "1"), "--losses.hard.weight"),
        (("--optim.epoch", "1"), "--optim.epochs"),
        (("--student.patch-size", "5"), "does not divide into patches"),
        (("--optim.epochs", "many"), "invalid literal for int() with base 10: 'many'"),
    ],
)
def test_a_misspelt_option_or_a_wrong_type_is_named(world, options, shown):
    done = world.run(*options)
    assert done.returncode == 2
    assert shown in done.stderr
    assert "Traceback" not in done.stderr


def test_a_foreign_folder_is_never_taken(world):
    (world.folder / "photos").mkdir()
    (world.folder / "photos" / "cat.jpg").write_bytes(b"precious")
    for resume in ("auto", "never"):
        done = world.run("--out", "photos", "--resume", resume)
        assert done.returncode == 2
        assert "photos is not empty and not a run folder; choose another with --out" in done.stderr
    assert [path.name for path in (world.folder / "photos").iterdir()] == ["cat.jpg"]


def test_a_dry_run_writes_nothing(world):
    done = world.here("--dry-run")
    assert done.returncode == 0, done.stderr
    assert " for 40 steps" in done.stdout
    assert done.stdout.endswith("rehearsal: nothing was written\n")
    assert not (world.folder / "runs").exists()


def test_compare_refuses_what_is_no_run(world):
    done = world.call("-m", "distill", "compare", str(world.folder))
    assert done.returncode == 2
    assert "is no run folder (it has no recipe.json)" in done.stderr
    assert "Traceback" not in done.stderr
