"""`python -m distill recipes`: the table is what the scripts themselves say."""

from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from distill import Optim, shelf
from students import VIT_SMALL, ViTConfig

RECIPES = Path(__file__).parents[2] / "recipes"


def text(what, width: int) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(what)
    return console.export_text()


@pytest.fixture(scope="module")
def recipes() -> list[shelf.Shelved]:
    return shelf.shelved(RECIPES)[0]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_window(recipes, width):
    shown = text(shelf.page(recipes, ["one.py cannot be read: a reason"], width), width)
    assert max(map(cell_len, shown.splitlines())) <= width
    for recipe in recipes:
        assert recipe.script.rpartition("/")[2] in shown
        # A long name goes on in the next line.
        assert all(word in shown for word in recipe.architecture.split())
    assert "one.py cannot be read" in shown


def test_a_row_by_hand(recipes):
    (row,) = (recipe for recipe in recipes if recipe.script == "quickstart.py")
    assert row == shelf.Shelved(
        script="quickstart.py",
        teacher="tf_efficientnet_lite0",
        fitted=True,
        student="ViT 6 × 96/4, 28 px",
        data="Arrays fashion_mnist.npz",
        losses="0.5 CrossEntropy + 0.5 SoftTargets + 4 Hint",
        terms="labels, soft, hint",
        epochs="4",
        top1="83.0 %",
    )


def test_names_of_students():
    assert shelf.student_name(VIT_SMALL) == "ViT-S/16, 224 px"
    assert shelf.student_name(ViTConfig(img_size=(32, 64), patch_size=(4, 8), depth=3)) == "ViT 3 × 768/4×8, 32×64 px"


def test_epochs_that_the_images_decide():
    assert shelf.epochs(Optim(epochs=1200)) == "1,200"
    assert shelf.epochs(Optim(epochs=None)) == "100–300"


def test_only_a_measured_result_is_shown():
    assert shelf.measured("Title.\n\nMeasured on 2 cores: top-1 82.6 % (mean), alone 73.1 %") == "82.6 %"
    assert shelf.measured("Title.\n\nPublished: top-1 74.5 %. Not yet measured here.") == shelf.NOT_YET
    assert shelf.measured("") == shelf.NOT_YET


def test_scripts_without_a_recipe_are_not_run_and_broken_ones_are_named(tmp_path):
    (tmp_path / "other.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    (tmp_path / "broken.py").write_text("recipe = no_such_name\n")
    (tmp_path / "empty.py").write_text("recipe = 3\n")
    found, broken = shelf.shelved(tmp_path)
    assert found == []
    assert broken[0] == "broken.py cannot be read: name 'no_such_name' is not defined"
    assert "has no Recipe named recipe" in broken[1]
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere; name one with recipes in it"):
        shelf.folder(tmp_path / "nowhere")
