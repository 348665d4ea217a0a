"""The study of the losses: it has every loss, and its table is the mean and deviation of what the runs report."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distill import catalogue
from distill.losses import RKD
from distill.recipe import Recipe

REPOSITORY = Path(__file__).parents[1]
STUDY = REPOSITORY / "recipes" / "studies" / "losses.py"


@pytest.fixture
def study():
    import importlib.util

    spec = importlib.util.spec_from_file_location("loss_study", STUDY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loss_study"] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["loss_study"]


def test_every_loss_has_a_row_with_its_papers_weights(study):
    studied = {type(loss).__name__ for losses in study.rows.values() for loss in losses.values()}
    assert studied == set(catalogue.names())
    recipe = study.recipe_for("RKD")
    assert isinstance(recipe, Recipe)
    assert len(recipe.data.train()) == 4000
    assert (recipe.optim.epochs, recipe.losses["rkd"]) == (4, RKD(distance=25.0, angle=50.0))
    assert study.recipe_for("labels-alone").teacher is None
    assert study.recipe_for("hard-token").student.distilled


def test_the_table_is_the_mean_and_deviation_over_seeds(study, tmp_path):
    def report(row, seed, *models):
        folder = tmp_path / row / f"seed{seed}"
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps({"models": list(models)}))

    for seed, alone, taught in ((0, 0.50, 0.60), (1, 0.52, 0.64)):
        report("labels-alone", seed, {"role": "baseline", "top1": alone})
        report("RKD", seed, {"role": "teacher", "top1": 0.9}, {"role": "student", "top1": taught, "agreement": 0.7})
    lines = study.table(study.Study(out=tmp_path)).splitlines()
    assert lines[2:] == [
        "| labels-alone | 1 CrossEntropy | 51.0 | 1.4 | – | – | 2 |",
        "| RKD | 1 CrossEntropy + 1 RKD | 62.0 | 2.8 | +11.0 ± 1.4 | 70.0 | 2 |",
    ]


def test_an_unknown_row_is_refused_with_the_rows_there_are(tmp_path):
    command = [sys.executable, str(STUDY), "--rows", "RDK", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no row 'RDK'; the rows are labels-alone, soft-targets,")
