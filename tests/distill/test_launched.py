"""Configurations with divided weights that a recipe does not allow are refused before anything is loaded."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate.utils import DistributedType

from distill import Arrays, preflight
from distill.launched import check_packages, check_place, check_plan, without_gpu
from distill.script import recipe_of
from teachers import Teacher

TINY = Path(__file__).parents[1] / "tiny_recipe.py"


@pytest.fixture
def recipe(tiny_images, tiny_teacher):
    return replace(recipe_of(TINY), data=Arrays(path=str(tiny_images)), teacher=Teacher(name=str(tiny_teacher)))


def launched(kind: DistributedType, version: int = 2, zero_stage: int = 1) -> Any:
    """What accelerate would say of itself: it has no FSDP and no DeepSpeed without GPUs."""
    plugin = SimpleNamespace(zero_stage=zero_stage, deepspeed_config={"train_micro_batch_size_per_gpu": "auto"})
    state = SimpleNamespace(deepspeed_plugin=plugin)
    return SimpleNamespace(distributed_type=kind, is_fsdp2=version == 2, state=state)


def without_average(recipe):
    return replace(recipe, optim=replace(recipe.optim, ema_decay=None))


def test_fsdp_takes_a_teacher_with_its_own_head_and_no_average(recipe):
    check_plan(preflight.check(without_average(recipe)), launched(DistributedType.FSDP))


@pytest.mark.parametrize(
    ("change", "version", "message"),
    [
        ({}, 1, "FSDP is asked for in version 1; set fsdp_version: 2"),
        ({"ema": True}, 2, "optim.ema_decay is 0.95 but FSDP divides the student"),
        (
            {"head": "fit"},
            2,
            "is to be fitted but FSDP divides the teacher; fit it first with python -m distill",
        ),
        ({"runtime": "inductor"}, 2, "is to run on inductor but FSDP divides it"),
    ],
)
def test_what_fsdp_does_not_allow(recipe, change, version, message):
    changed = recipe if change.pop("ema", False) else without_average(recipe)
    plan = preflight.check(replace(changed, teacher=replace(recipe.teacher, **change)))
    with pytest.raises(ValueError, match=message):
        check_plan(plan, launched(DistributedType.FSDP, version))


def test_deepspeed_is_told_the_batch_and_may_not_divide_the_student(recipe):
    plan = preflight.check(recipe, processes=2, accumulate=2)
    found = launched(DistributedType.DEEPSPEED)
    check_plan(plan, found)
    assert found.state.deepspeed_plugin.deepspeed_config == {"train_micro_batch_size_per_gpu": 16}
    with pytest.raises(ValueError, match="ZeRO stage 3 divides the student"):
        check_plan(plan, cast(Any, launched(DistributedType.DEEPSPEED, zero_stage=3)))


@pytest.mark.usefixtures("nothing_asked")
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP was asked for but accelerate does not offer it on cpu; use recipes/"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DEEPSPEED was asked for but accelerate does not offer it on cpu"),
        (
            {"KMP_AFFINITY": "granularity=fine,compact,1,0", "MASTER_ADDR": "127.0.0.1"},
            "starts one process whatever --num_processes says; for several use ACCELERATE_USE_CPU=true",
        ),
    ],
)
def test_a_launch_that_would_silently_do_something_else_is_refused(monkeypatch, environment, message):
    check_place(place())
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        check_place(place())


def place(kind: DistributedType = DistributedType.NO, processes: int = 1, precision: str = "no") -> Any:
    """A CPU, as accelerate would say."""
    return SimpleNamespace(
        device=torch.device("cpu"), mixed_precision=precision, distributed_type=kind, num_processes=processes
    )


@pytest.fixture
def nothing_asked(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "ACCELERATE_USE_CPU", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("nothing_asked")
def test_processes_for_gpus_that_are_not_there_do_not_each_run_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(ValueError, match=r"^8 processes were started for GPUs and torch finds none .*/cpu\.yaml$"):
        check_place(place())
    check_place(place(DistributedType.MULTI_CPU, processes=8))


@pytest.mark.usefixtures("nothing_asked")
def test_mixed_precision_on_a_cpu_that_nobody_asked_for_is_refused_but_rehearsed(monkeypatch):
    meant_for_a_gpu = place(precision="bf16")
    with pytest.raises(ValueError, match=r"bf16 is meant for a GPU and torch finds none .* accelerate launch --cpu"):
        check_place(meant_for_a_gpu)
    check_place(meant_for_a_gpu, rehearsal=True)
    assert (
        without_gpu(meant_for_a_gpu) == "mixed precision bf16 is meant for a GPU and torch finds none on this machine"
    )
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    check_place(meant_for_a_gpu)
    assert without_gpu(meant_for_a_gpu) is None


@pytest.mark.usefixtures("nothing_asked")
def test_deepspeed_without_its_packages_is_a_line(monkeypatch):
    check_packages()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr("sys.path", [])  # where nothing is installed
    for name in ("deepspeed", "transformers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(
        ValueError, match=r"^DeepSpeed needs deepspeed, transformers; pip install deepspeed transformers,"
    ):
        check_packages()


def test_what_accelerate_launch_tells_one_process_of_several_on_a_cpu():
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    words = "--cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no x.py"
    environment = prepare_simple_launcher_cmd_env(launch_command_parser().parse_args(words.split()))[1]
    assert environment["KMP_AFFINITY"] == "granularity=fine,compact,1,0"
    assert environment["MASTER_ADDR"] == "127.0.0.1"
