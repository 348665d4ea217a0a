"""The memory of a run, seen from outside: real processes, stages by what they print, a budget by hand."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from distill import Arrays
from distill.bench.budget import REST, Budget, budget
from distill.bench.watched import watch
from distill.losses import CrossEntropy, HardTargets
from distill.script import recipe_of
from teachers import Teacher
from tests.conftest import REPOSITORY, TINY

MIB = 2**20
# Each stage lasts long enough for a sample of it, and ends when its line is read, not when it is written.
PROGRAM = """
import fcntl, struct, sys, termios, time
def say(line):
    time.sleep(0.2)
    print(line, flush=True)
    while struct.unpack("i", fcntl.ioctl(sys.stdout, termios.FIONREAD, bytes(4)))[0]:
        time.sleep(0.01)
    time.sleep(0.1)
say("run/x")
held = b"x" * (64 * 2**20)
say("teacher runs on nothing")
say("epoch 1 of 2: top-1 50 %")
more = b"x" * (32 * 2**20)
say("epoch 2 of 2: top-1 50 %")
del held, more
say("a line that says nothing")
say("took 0:01")
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")


def test_memory_is_told_by_the_stage_in_which_it_was_taken():
    watched = watch([sys.executable, "-c", PROGRAM], os.environ)
    first, ready, trained, rest = watched.stages
    assert [stage.name for stage in watched.stages] == [
        "imports, data, plan", "teacher ready", "training, checkpoints, validation", "layers compared, report",
    ]  # fmt: skip
    assert (ready.private - first.private) / MIB == pytest.approx(64, abs=2)
    assert (trained.private - first.private) / MIB == pytest.approx(96, abs=2)
    assert rest.private <= trained.private == watched.private
    assert watched.resident > watched.private


def test_a_run_that_fails_says_its_last_line():
    with pytest.raises(ValueError, match="exit code 3: no such thing"):
        watch([sys.executable, "-c", "print('no such thing'); raise SystemExit(3)"], os.environ)


def test_a_budget_adds_up_and_grows_with_the_batch(tiny_images, tiny_teacher):
    recipe = recipe_of(TINY)
    assert isinstance(recipe.teacher, Teacher)
    teacher, data = replace(recipe.teacher, name=str(tiny_teacher)), Arrays(path=str(tiny_images))
    losses = {"labels": CrossEntropy(), "hard": HardTargets()}
    recipe = replace(recipe, teacher=teacher, data=data, losses=losses)
    half = budget(replace(recipe, optim=replace(recipe.optim, batch_size=32)))
    whole = budget(recipe)
    assert whole.passing == pytest.approx(2 * half.passing, rel=1e-3)
    assert half.kept is not None
    assert whole.kept == pytest.approx(2 * half.kept, rel=1e-2)
    # The teacher: 24 dimensions, 2 blocks, 16 patches of 49 pixels, a token, ten classes.
    block = 12 * 24**2 + (3 + 1 + 4 + 1) * 24 + 4 * 24
    assert whole.teacher == 4 * (2 * block + 49 * 24 + 24 + 24 + 17 * 24 + 2 * 24 + 24 * 10 + 10)
    assert whole.rest == REST == 500_000_000
    assert Budget(teacher=1, student=2, kept=4, passing=8, rest=16).total() == 31
    assert Budget(teacher=1, student=2, kept=4, passing=8, rest=16).total(passing=False) == 23
    assert Budget(teacher=1, student=2, kept=None, passing=8).total() is None


@pytest.mark.slow  # a whole run
def test_the_command_measures_a_run(world):
    where = ["--data.path", str(world.data), "--teacher.name", str(world.teacher), "--optim.epochs", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "distill.bench.memory", "--json", str(TINY), *where],
        cwd=world.folder,
        env=world.environment(PYTHONPATH=str(REPOSITORY)),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    stages = {stage["name"]: stage["private"] for stage in said["run_bytes"]["stages"]}
    assert set(stages) >= {"imports, data, plan", "teacher ready", "training, checkpoints, validation"}
    assert max(stages.values()) == said["run_bytes"]["private"]
    assert said["imported_bytes"]["torch"] < stages["imports, data, plan"]
    assert [path.name for path in world.folder.iterdir()] in ([], ["cache"])
