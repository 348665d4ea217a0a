"""The whole command on the tiny recipe: real processes, a real loop, real shards."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from accelerate import Accelerator

from distill import Arrays, preflight
from distill.bench.carry_out import check
from distill.bench.command import BenchOptions
from distill.bench.machine import commit, cpu
from distill.bench.page import binds
from distill.bench.steps import ready_batches, step
from distill.bench.turns import Measured
from distill.console import Console
from distill.options import RunOptions
from distill.script import recipe_of
from distill.train import train
from teachers import Teacher
from tests.conftest import REPOSITORY, TINY


def words(world, *options: str, script: Path = TINY) -> list[str]:
    where = ["--data.path", str(world.data)] + ["--teacher.name", str(world.teacher)] * (script == TINY)
    return ["-m", "distill", "bench", str(script), *where, *options]


def test_every_stage_of_a_recipe_has_its_figures(world):
    quick = ["--rounds", "2", "--seconds", "0.05", "--workers", "1", "--threads", "1"]
    quick += ["--json", "b.json", "--profile", "trace.json", "--overlap", "--against", "timm", "loop"]
    done = subprocess.run(
        [sys.executable, *words(world, *quick)],
        cwd=world.folder, env=world.environment(PYTHONPATH=str(REPOSITORY)), capture_output=True, text=True,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads((world.folder / "b.json").read_text())
    stages = {stage["key"]: stage for stage in said["stages"]}
    assert list(stages) == [
        "student", "teacher", "online", "online_logits", "saved", "loader", "loop", "loop_overlapped", "ours",
        "peer_timm", "peer_loop",
    ]  # fmt: skip
    for stage in stages.values():
        rates = stage["images_per_second"]
        assert len(rates["rounds"]) == 2
        assert 0 < rates["low"] <= rates["median"] <= rates["high"]
        own = [a / b for a, b in zip(rates["rounds"], stages["student"]["images_per_second"]["rounds"], strict=True)]
        assert stage["ratio_to_floor"] == pytest.approx(sum(own) / 2)
    assert stages["online_logits"]["name"] == "online step without hint"
    assert stages["saved"]["name"] == "step from saved outputs without hint, crd"
    assert "whole loop: " in done.stdout
    one, other = (stages[key]["images_per_second"]["rounds"] for key in ("loop_overlapped", "loop"))
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    middle = sum(ratios) / 2
    assert f"whole loop, overlapped: {middle:.2f} of the whole loop" in done.stdout
    assert {"of": "loop_overlapped", "to": "loop", "median": middle, "low": min(ratios), "high": max(ratios)} in said[
        "ratios"
    ]
    assert said["operations_per_second"] is None  # CRD draws its negatives by what it reads
    assert "--overlap: there are no streams on cpu" in done.stdout
    assert " binds: " in done.stdout
    assert said["machine"]["cpu"] == cpu()
    assert said["machine"]["threads"] == 1
    assert said["versions"]["distill-vision"] == version("distill-vision")
    assert said["commit"] == commit()
    assert json.loads((world.folder / "trace.json").read_text())["traceEvents"]
    left = {path.name for path in world.folder.iterdir()}
    assert left <= {"b.json", "trace.json", "cache"}


def test_only_the_parts_that_are_named_are_measured(world):
    quick = ["--rounds", "1", "--seconds", "0.05", "--workers", "0", "--threads", "1", "--json", "b.json"]
    quick += ["--only", "student", "loop", "peers", "--against", "loop", "--losses.crd.weight", "0"]
    done = world.call(*words(world, *quick))
    assert done.returncode == 0, done.stderr
    said = json.loads((world.folder / "b.json").read_text())
    student, *others = said["stages"]
    assert [stage["key"] for stage in others] == ["loop", "ours", "peer_loop"]
    # By hand: 18 tokens of 16 channels in 2 blocks, their patches, 2 heads, and a hint of 16 positions to 24 channels;
    # thrice the forward pass, but no gradient of the images.
    block = 2 * 18 * (16 * 48 + 2 * 18 * 16 + 16 * 16 + 2 * 16 * 64)
    patches, heads, hint = 2 * 16 * 49 * 16, 2 * 2 * 16 * 10, 2 * 16 * 16 * 24
    each = said["operations_per_second"] / student["images_per_second"]["median"]
    assert each == pytest.approx(2 * patches + 3 * (2 * block + heads + hint))


def test_a_part_that_the_recipe_has_not_is_one_line(world):
    recipe = world.folder / "alone.py"
    recipe.write_text(TINY.read_text() + "\nrecipe = recipe.without_teacher()\n")
    quick = ["--only", "student", "--rounds", "1", "--seconds", "0.05", "--profile", "t.json"]
    traced = world.call(*words(world, *quick, script=recipe))
    assert traced.returncode == 0, traced.stderr
    done = world.call(*words(world, "--only", "saved", script=recipe))
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "error: there is nothing to measure by --only saved: the recipe has no teacher, and so no saved\n"
    )


def test_a_batch_that_is_too_large_is_one_line(world):
    done = world.call(*words(world, "--optim.batch-size", "4000"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: a batch takes 4000 images but there are 640")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"rounds": 0}, "--rounds is 0"),
        ({"seconds": 0}, "--seconds is 0"),
        ({"only": ("peers",)}, "--only names peers and --against nobody"),
        ({"only": ("loop",), "against": ("timm",)}, "--against timm is measured as peers"),
    ],
)
def test_options_out_of_range_are_one_line(options, line):
    with pytest.raises(ValueError, match=line):
        check(BenchOptions(**options))


def test_what_binds_is_said_from_the_rates():
    # The loop takes 10 ms an image; the student alone 6, the teacher 3; the loader gives 4 times as many.
    rates = {"student": 1000 / 6, "teacher": 1000 / 3, "loader": 400.0, "loop": 100.0}
    stages = {key: Measured(key=key, name=key, rates=(rate,), peak_bytes=None) for key, rate in rates.items()}
    assert binds(stages) == (
        "the student binds: of the loop's time the student 60%, the teacher 30%; the loader alone is 4.0 times as fast "
        "as the loop"
    )


def test_the_step_that_is_measured_is_the_step_of_the_loop(tmp_path, tiny_images, tiny_teacher):
    # All that a step draws is in it: mixing, drop-path, CRD's negatives. No shortcut changes the losses.
    recipe = recipe_of(TINY)
    assert isinstance(recipe.teacher, Teacher)
    data, named = Arrays(path=str(tiny_images)), replace(recipe.teacher, name=str(tiny_teacher))
    recipe = replace(recipe, data=data, teacher=named)
    accelerator, plan, options = Accelerator(cpu=True), preflight.check(recipe), RunOptions(log_every_steps=1)
    layers = plan.objective.teacher_layers
    teacher = named.build(head=None, layers=layers).start(accelerator.device, layers)
    batches = ready_batches(plan, 1, accelerator.device)
    measured = step(recipe, plan, lambda ready: teacher(ready.images, layers), batches, accelerator, options)()
    train(plan, teacher, accelerator, tmp_path, options, Console(main=False), workers=0, stop_step=1)
    logged = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert float(measured) == pytest.approx(logged, rel=1e-6)
