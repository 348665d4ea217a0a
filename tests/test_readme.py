"""The README is true: its Python runs as it stands, its files exist, its names are those of the packages."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import students
from distill.preflight import check
from distill.recipe import Recipe
from students import ViTConfig

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def finished_run(tmp_path, monkeypatch):
    """A folder in which runs/quickstart/student is a student of 28 px, as the quickstart leaves one."""
    config = ViTConfig(img_size=28, patch_size=4, in_chans=1, num_classes=10, embed_dim=24, depth=2, num_heads=2)
    students.save(config.build(), tmp_path / "runs" / "quickstart" / "student")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("finished_run")
@pytest.mark.parametrize("block", BLOCKS, ids=[f"block {number}" for number in range(len(BLOCKS))])
def test_python_in_the_readme_runs(block, monkeypatch):
    # As a module of its own, because a dataclass and a teacher's function are looked up in it.
    module = ModuleType("a_block")
    monkeypatch.setitem(sys.modules, "a_block", module)
    exec(block, vars(module))
    recipe, teacher = vars(module).get("recipe"), vars(module).get("teacher")
    if teacher is not None:
        shapes = teacher.shapes()
        assert (shapes.num_classes, shapes.layer("1:layer4"), shapes.layer("0:3")) == (10, 6, 3)
        assert shapes.grids[6] == (512, 2, 2)
    if recipe is not None:
        assert isinstance(recipe, Recipe)
        plan = check(recipe)
        assert (plan.recipe.student.num_classes, len(plan.train), set(plan.objective.losses)) == (
            2,
            64,
            {"labels", "logits"},
        )


def test_the_example_with_its_own_loss_and_data_runs_and_is_compared(tmp_path, world):
    (tmp_path / "own.py").write_text(BLOCKS[-1])

    def python(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=world.environment(), capture_output=True, text=True, timeout=240
        )

    done = python("own.py", "--workers", "0", "--teacher.runtime", "eager")
    assert done.returncode == 0, done.stderr
    assert "0.1 × Logits: class logits against the teacher's" in done.stdout
    compare = ("-m", "distill", "compare", "runs/own", "--out", "again", "--no-cost")
    unknown = world.call(*compare)
    assert unknown.returncode == 2
    assert "recipe.json names __main__.Squares, which is not imported here; name its script" in unknown.stderr
    known = python(*compare, "--script", "own.py")
    assert known.returncode == 0, known.stderr
    again, first = (json.loads((tmp_path / f / "report.json").read_text())["models"] for f in ("again", "runs/own"))
    assert [model["top1"] for model in again] == [model["top1"] for model in first]


def test_links_and_recipes_in_the_readme_exist():
    for path in re.findall(r"\]\((?!http)([^)]+)\)", README) + re.findall(r"recipes/\w+\.py", README):
        assert (REPOSITORY / path).exists(), path


def test_parameter_counts_in_the_readme_are_those_of_the_models():
    import torch

    with torch.device("meta"):
        for name, millions in zip(
            ("tiny", "small", "medium", "base", "large", "huge"),
            ("5.72", "22.05", "38.84", "86.57", "304.33", "632.05"),
            strict=True,
        ):
            model = getattr(students, f"vit_{name}")()
            assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}" == millions
            assert millions in README.replace("\n", " ")
