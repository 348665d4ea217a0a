"""The README is true: its Python runs as it stands, its files exist, its names are those of the packages."""

import re
from pathlib import Path

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
def test_python_in_the_readme_runs(block):
    # As a module of its own, because a dataclass looks its module up.
    names: dict = {"__name__": "tests"}
    exec(block, names)
    recipe = names.get("recipe")
    if recipe is not None:
        assert isinstance(recipe, Recipe)
        plan = check(recipe)
        assert (plan.recipe.student.num_classes, len(plan.train), set(plan.objective.losses)) == (
            2,
            64,
            {"labels", "logits"},
        )


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
