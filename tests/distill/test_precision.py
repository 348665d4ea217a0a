"""Mixed precision reaches the student however accelerate hands it back: wrapped in autocast, or as it was, by FSDP2."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from distill import Arrays, preflight
from distill.console import Console
from distill.options import RunOptions
from distill.script import recipe_of
from distill.teaching import make_teacher
from distill.train import train
from teachers import Teacher
from tests.conftest import TINY


@pytest.fixture(autouse=True)
def _fresh_state():
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(("mixed_precision", "dtype"), [("bf16", torch.bfloat16), ("no", torch.float32)])
def test_the_student_computes_in_what_was_asked_for(
    tmp_path, tiny_images, tiny_teacher, monkeypatch, mixed_precision, dtype, wrapped
):
    teacher = Teacher(name=str(tiny_teacher), runtime="eager")
    recipe = replace(recipe_of(TINY), data=Arrays(path=str(tiny_images)), teacher=teacher)
    accelerator, plan = Accelerator(cpu=True, mixed_precision=mixed_precision), preflight.check(recipe)
    if not wrapped:  # as accelerate leaves a module that was divided before
        monkeypatch.setattr(accelerator, "prepare_model", lambda model, *_, **__: model)
    seen = set()
    linear = plan.objective.student.blocks[0].get_submodule("attn.qkv")
    linear.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
    console, layers = Console(main=False), plan.objective.teacher_layers
    running = make_teacher(recipe, accelerator, console, layers=layers, head=None, images=plan.train)
    train(plan, running, accelerator, tmp_path, RunOptions(log_every_steps=1), console, workers=0, stop_step=1)
    assert seen == {dtype}
