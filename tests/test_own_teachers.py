"""The script of docs/teachers-ensemble.md runs: two teachers, one of them the user's own module, and is compared."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from distill import Arrays, Optim, Recipe
from distill.losses import Hint, SoftTargets
from distill.preflight import check
from distill.teaching import zero_head
from students import ViTConfig
from teachers import Ensemble, Teacher

PAGE = (Path(__file__).parents[1] / "docs" / "teachers-ensemble.md").read_text()
SCRIPT = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "run(recipe)" in block)


@pytest.fixture
def python(tmp_path, tiny_images):
    (tmp_path / "own_teachers.py").write_text(SCRIPT)
    (tmp_path / "images.npz").symlink_to(tiny_images)
    environment = os.environ | {"DISTILL_CACHE": str(tmp_path / "cache"), "ACCELERATE_USE_CPU": "true"}

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
        )

    return run


SHORT = ("--optim.epochs=1", "--optim.warmup-epochs=0", "--student.depth", "2", "--workers", "0", "--threads", "1")
MEMBERS = [f"--teacher.members.{n}.{option}" for n in (0, 1) for option in ("runtime=eager", "fit-images=100")]


def test_two_teachers_teach_with_a_head_each_and_are_compared(tmp_path, python):
    done = python("own_teachers.py", *SHORT, *MEMBERS)
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert "tf_efficientnet_lite0 + my_model" in shown
    assert "1 × Hint" not in shown
    assert "head of tf_efficientnet_lite0 fitted" in shown
    assert "head of my_model fitted" in shown
    assert "teacher runs on eager, BatchNorm folded + eager, BatchNorm folded" in shown
    run = tmp_path / "runs" / "own_teachers"
    assert {path.name for path in run.glob("teacher_head*")} == {
        "teacher_head_0.safetensors",
        "teacher_head_1.safetensors",
    }
    teacher, student = json.loads((run / "report.json").read_text())["models"]
    assert teacher["name"] == "tf_efficientnet_lite0 + my_model"
    assert teacher["top1"] > 0.5
    assert 0 < student["agreement"] < 1

    known = python("-m", "distill", "compare", str(run), "--no-cost", "--out", "again", "--script", "own_teachers.py")
    assert known.returncode == 0, known.stderr
    again = json.loads((tmp_path / "again" / "report.json").read_text())["models"]
    assert [model["top1"] for model in again] == [teacher["top1"], student["top1"]]


def test_heads_are_asked_for_members_that_fit_one(tiny_images):
    recipe = Recipe(
        student=ViTConfig(img_size=28, patch_size=7, in_chans=1, num_classes=None, embed_dim=16, depth=2, num_heads=2),
        teacher=Ensemble(Teacher(name="test_resnet", head="fit"), Teacher(name="test_vit"), weights=(1, 0)),
        data=Arrays(path=str(tiny_images)),
        losses={"soft": SoftTargets(), "hint": Hint(pairs=((0, "1:2"),))},
        optim=Optim(epochs=1, batch_size=64, warmup_epochs=0),
    )
    plan = check(recipe)
    heads = zero_head(plan)
    assert isinstance(heads, tuple)
    assert [None if head is None else tuple(head.weight.shape) for head in heads] == [(10, 96), None]
    assert plan.objective.teacher_layers == [7]
    answering = replace(recipe, teacher=Ensemble(Teacher(name="test_resnet", head="fit"), Teacher(name="test_vit")))
    message = "member 1 'test_vit' has 1000 classes but the data has 10; use --teacher.members.1.head fit"
    with pytest.raises(ValueError, match=message):
        check(answering)


DRAWN = """
from distill import Arrays, Optim, Recipe, Views, run
from distill.losses import Hint, SoftTargets
from students import ViTConfig
from teachers import Custom, Ensemble, Teacher

def net():
    import timm
    return timm.create_model("test_resnet", num_classes=10)

own = Custom(model=net, img_size=32, mean=(0.5,) * 3, std=(0.25,) * 3, layers=("layer1", "layer2"), runtime="eager")
recipe = Recipe(
    student=ViTConfig(img_size=28, patch_size=7, in_chans=1, num_classes=10, embed_dim=16, depth=2, num_heads=2),
    teacher=Ensemble(Teacher(name="TEACHER", runtime="eager"), own, draw="random"),
    data=Arrays(path="images.npz"),
    views=Views(scale=(0.6, 1.0), mixup=0.8),
    losses={"soft": SoftTargets(temperature=1.0), "hint": Hint(pairs=((0.5, "1:layer2"),))},
    optim=Optim(epochs=1, batch_size=64, warmup_epochs=0),
)
if __name__ == "__main__":
    run(recipe)
"""


@pytest.mark.slow
def test_the_member_of_a_step_is_the_same_on_two_processes_and_after_a_resume(tmp_path, python, tiny_teacher):
    (tmp_path / "drawn.py").write_text(DRAWN.replace("TEACHER", str(tiny_teacher)))
    options = ("drawn.py", "--workers=0", "--threads=1", "--log-every-steps=1", "--checkpoint-every-steps=5", "--out")

    def losses(run: str) -> list[dict[str, float]]:
        lines = [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]

    done = python(*options, "one")
    assert done.returncode == 0, done.stderr
    first = losses("one")
    # The tiny teacher, far from uniform, and a random network differ in how much there is to learn.
    assert {line["loss/soft"] > 0.3 for line in first[:10]} == {True, False}

    two = python("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *options, "two")
    assert two.returncode == 0, two.stderr
    for a, b in zip(first, losses("two"), strict=True):
        assert a == pytest.approx(b, abs=1e-4)

    shutil.rmtree(tmp_path / "one" / "checkpoints" / "step_000000010")
    (tmp_path / "one" / "report.json").unlink()
    resumed = python(*options, "one")
    assert "resumed after step 5 of 10" in resumed.stdout
    assert losses("one") == first
