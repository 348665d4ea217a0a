"""What `--compile` asks for: the student compiled, and the teacher where nothing that is as fast can run it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from distill.compiling import with_compiled_teacher
from distill.options import RunOptions
from distill.recipe import Recipe
from distill.script import recipe_of
from teachers import Teacher

RECIPE = recipe_of(Path(__file__).parents[2] / "recipes" / "quickstart.py")
ASKED = RunOptions(compile=True)


@pytest.fixture
def fresh_state() -> Iterator[None]:
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def runtime(recipe: Recipe) -> str:
    assert isinstance(recipe.teacher, Teacher)
    return recipe.teacher.runtime


@pytest.mark.usefixtures("fresh_state")
@pytest.mark.parametrize(("mixed_precision", "expected"), [("no", "auto"), ("bf16", "inductor")])
def test_a_teacher_is_compiled_on_a_cpu_where_onnxruntime_cannot_run_it(mixed_precision: str, expected: str) -> None:
    accelerator = Accelerator(cpu=True, mixed_precision=mixed_precision)
    assert runtime(RECIPE) == "auto"
    assert runtime(with_compiled_teacher(RECIPE, ASKED, accelerator)) == expected
    assert runtime(with_compiled_teacher(RECIPE, RunOptions(), accelerator)) == "auto"


@pytest.mark.usefixtures("fresh_state")
def test_a_teacher_is_compiled_where_onnxruntime_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["teachers.runtime.choose"], "find_spec", lambda name: None)
    assert runtime(with_compiled_teacher(RECIPE, ASKED, Accelerator(cpu=True))) == "inductor"
