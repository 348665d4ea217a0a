"""Recipes as values: JSON and back, differences, and the baseline without a teacher."""

import json

import pytest

from distill import Arrays, Optim, Recipe, Views
from distill.losses import CrossEntropy, HardTargets, Hint, SoftTargets
from distill.recipe import differences, from_json, to_json
from students import ViTConfig
from teachers import Teacher

RECIPE = Recipe(
    student=ViTConfig(img_size=(28, 56), patch_size=4, distilled=True, num_classes=None),
    teacher=Teacher(name="resnet18", img_size=112, head="fit"),
    data=Arrays(path="images.npz"),
    views=Views(scale=(0.5, 1.0), mixup=0.8, auto_augment="3a"),
    losses={"labels": CrossEntropy(weight=0.5), "hint": Hint(pairs=((0, 1), (0.5, -1))), "hard": HardTargets()},
    optim=Optim(epochs=3, clip_grad=1.0),
    seed=7,
)


def test_recipe_json_rebuilds_the_same_recipe():
    assert from_json(json.loads(json.dumps(to_json(RECIPE)))) == RECIPE


def test_recipe_json_imports_nothing_outside_the_toolkit():
    for name in ("subprocess.Popen", "os.system", "distill.nowhere.Loss", "students.sizes.VIT_TINY", "antigravity.X"):
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            from_json({"type": name, "args": "true"})


def test_recipe_json_of_another_version_names_the_field():
    value = to_json(RECIPE.optim) | {"momentum": 0.9}
    with pytest.raises(ValueError, match=r"does not fit this version of distill\.recipe\.Optim: .*momentum"):
        from_json(value)


def test_differences_name_the_fields():
    changed = to_json(RECIPE)
    changed["optim"]["epochs"] = 5
    changed["losses"]["hint"]["pairs"] = [[0, 2]]
    assert differences(to_json(RECIPE), changed) == [
        "losses.hint.pairs: [[0, 1], [0.5, -1]] -> [[0, 2]]",
        "optim.epochs: 3 -> 5",
    ]


def test_without_a_teacher_only_labels_are_left_at_weight_1_and_no_token():
    alone = RECIPE.without_teacher()
    assert alone.teacher is None
    assert alone.losses == {"labels": CrossEntropy(weight=1.0)}
    assert not alone.student.distilled
    assert (alone.optim, alone.views, alone.data, alone.seed) == (RECIPE.optim, RECIPE.views, RECIPE.data, 7)


def test_without_a_teacher_a_label_free_recipe_learns_the_labels():
    alone = Recipe(student=ViTConfig(), data=Arrays(path="x"), losses={"soft": SoftTargets()}).without_teacher()
    assert alone.losses == {"labels": CrossEntropy()}


def test_view_size_is_the_students_unless_the_views_say_otherwise():
    assert RECIPE.view_size == (28, 56)
    assert Recipe(student=ViTConfig(), data=Arrays(path="x"), views=Views(img_size=96)).view_size == (96, 96)
