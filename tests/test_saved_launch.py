"""Saving as a person does it: killed and gone on with, by two processes, and trained from without the teacher."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distill import Arrays
from distill.saved.command import SaveOptions
from distill.saved.saving import save
from distill.script import recipe_of
from teachers import Teacher

SCRIPT = Path(__file__).with_name("saved_recipe.py")
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
IN_PROCESS = ("--threads", "1", "--workers", "0")
WHOLE = SaveOptions(k="all", dtype="float32", embedding=True, shard_images=128, threads=1, workers=0)


@pytest.fixture(autouse=True)
def on_cpu(world, monkeypatch):
    """What this process does, it does as the commands do."""
    for name in ("ACCELERATE_USE_CPU", "DISTILL_CACHE"):
        monkeypatch.setenv(name, world.environment()[name])


def save_here(world, out: str, **teacher) -> None:
    recipe = recipe_of(SCRIPT)
    recipe = replace(
        recipe,
        data=Arrays(path=str(world.data)),
        teacher=Teacher(name=str(world.teacher), runtime="eager", **teacher),
    )
    save(recipe, replace(WHOLE, out=str(world.folder / out)), "saved_recipe")


def save_command(world, out: str, launcher: tuple[str, ...] = ()) -> list[str]:
    options = ["--k", "all", "--dtype", "float32", "--embedding", "--shard-images", "128", "--out", out, *IN_PROCESS]
    where = ["--data.path", str(world.data), "--teacher.name", str(world.teacher)]
    return [sys.executable, *launcher, "-m", "distill", "save", str(SCRIPT), *where, *options]


def finish(world, line: list[str]) -> str:
    done = subprocess.run(
        line, cwd=world.folder, env=world.environment(), capture_output=True, text=True, timeout=240
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_saving_that_was_killed_or_done_by_two_processes_leaves_the_same_files(world, capsys):
    save_here(world, "whole")
    assert "348 kB: 136 bytes an image and epoch" in capsys.readouterr().out  # 4 × 640 images × 4 bytes × (10 + 24)
    whole = contents(world.folder / "whole")
    assert len(whole) == 1 + 2 * 4 * 5

    killed = world.folder / "killed"
    process = subprocess.Popen(
        save_command(world, "killed"),
        cwd=world.folder, env=world.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while len(shards := list(killed.glob("epoch_*/*.bin"))) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert contents(killed).keys() != whole.keys()
    # What a process may have left half written, and a shard that lost its end.
    (killed / "epoch_0000" / ".shard_00000.bin.host.1.partial").write_bytes(b"half")
    shards[0].write_bytes(shards[0].read_bytes()[:-1])
    stamps = {shard: shard.stat().st_mtime_ns for shard in shards}
    save_here(world, "killed")
    assert contents(killed) == whole
    assert [shard for shard in shards if shard.stat().st_mtime_ns != stamps[shard]] == shards[:1]

    finish(world, save_command(world, "two", TWO_PROCESSES))
    assert contents(world.folder / "two") == whole


def test_a_run_from_saved_outputs_needs_no_teacher_and_equals_the_run_with_it(world):
    save_here(world, "saved", head="fit", fit_images=200)
    fitted = ["--teacher.head", "fit", "--teacher.fit-images", "200", "--student.drop-path-rate", "0"]
    where = ["--data.path", str(world.data), "--teacher.name", str(world.teacher), *fitted]
    recipe = [str(SCRIPT), *where, *IN_PROCESS, "--log-every-steps", "1"]
    online = world.call(*recipe, "--out", "online")
    assert online.returncode == 0, online.stderr
    shown = finish(world, [sys.executable, *recipe, "--out", "from-saved", "--saved", "saved"])
    assert "all logits and embeddings of 4 epochs in float32, from saved; it is not loaded" in shown

    one, other = (load_file(world.folder / run / "student" / "model.safetensors") for run in ("online", "from-saved"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert losses(world, "online") == losses(world, "from-saved")

    # Its report has the student alone, until it is compared; the fitted head came with the outputs.
    taught = report(world, "online")
    assert [row["role"] for row in taught] == ["teacher", "student"]
    assert [(row["role"], row["top1"]) for row in report(world, "from-saved")] == [("student", taught[1]["top1"])]
    compared = world.call("-m", "distill", "compare", "from-saved", "--no-cost")
    assert compared.returncode == 0, compared.stderr
    assert [row["top1"] for row in report(world, "from-saved")] == [row["top1"] for row in taught]

    # Two processes read the same global batches.
    options = ["--out", "two", "--saved", "saved", "--verify-saved", "start"]
    assert "checksums: 2,560 images" in finish(world, [sys.executable, *TWO_PROCESSES, *recipe, *options])
    for a, b in zip(losses(world, "two"), losses(world, "online"), strict=True):
        assert a == pytest.approx(b, abs=1e-3)


def losses(world, run: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (world.folder / run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def report(world, run: str) -> list[dict]:
    return json.loads((world.folder / run / "report.json").read_text())["models"]
