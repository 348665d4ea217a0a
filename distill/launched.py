"""What accelerate's configuration asks for and would fail, or be done in another way without a word: a line each."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from distill.preflight import Plan
from teachers.ensemble import members

if TYPE_CHECKING:
    from accelerate import Accelerator


def check_place(accelerator: Accelerator, *, rehearsal: bool = False) -> None:
    """ValueError if processes, precision or sharding were asked for that this machine does not give.

    A rehearsal goes on without the GPU that is meant; `without_gpu` is what there is to say then.
    """
    from accelerate.utils import DistributedType

    on_cpu = accelerator.device.type == "cpu"
    if on_cpu and _launched_alone_with_others():
        raise ValueError(
            "accelerate launch --cpu starts one process whatever --num_processes says; for several use "
            "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N"
        )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and accelerator.num_processes == 1:  # each would take itself for the only one
        raise ValueError(
            f"{started} processes were started for GPUs and torch finds none on this machine; for a CPU put "
            "ACCELERATE_USE_CPU=true before the command, with recipes/launch/cpu.yaml"
        )
    if on_cpu and accelerator.mixed_precision == "fp16":
        raise ValueError("mixed precision fp16 needs a GPU and the run is on the CPU; use --mixed_precision no or bf16")
    if not rehearsal and (line := without_gpu(accelerator)):
        raise ValueError(f"{line}; for the CPU use accelerate launch --cpu, or see why torch finds no GPU")
    for name, kind in (("FSDP", DistributedType.FSDP), ("DEEPSPEED", DistributedType.DEEPSPEED)):
        asked = os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true"
        if asked and accelerator.distributed_type != kind:
            raise ValueError(
                f"{name} was asked for but accelerate does not offer it on {accelerator.device.type}; use "
                "recipes/launch/one_gpu.yaml, or cpu.yaml"
            )


def check_packages() -> None:
    """ValueError if the launcher was told to use DeepSpeed and a package of it is missing."""
    asked = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    # accelerate asks for the version of transformers as it starts DeepSpeed.
    if asked and (absent := [name for name in ("deepspeed", "transformers") if find_spec(name) is None]):
        raise ValueError(
            f"DeepSpeed needs {', '.join(absent)}; pip install {' '.join(absent)}, or use recipes/launch/one_node.yaml"
        )


def without_gpu(accelerator: Accelerator) -> str | None:
    """A line where mixed precision was asked for, as for a GPU, and the run is on a CPU that nobody asked for."""
    asked_for_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1", "yes")
    if accelerator.device.type != "cpu" or asked_for_cpu or accelerator.mixed_precision == "no":
        return None
    return f"mixed precision {accelerator.mixed_precision} is meant for a GPU and torch finds none on this machine"


def check_plan(plan: Plan, accelerator: Accelerator) -> None:
    """ValueError if the recipe asks for what divided weights do not allow."""
    from accelerate.utils import DistributedType

    if accelerator.distributed_type == DistributedType.FSDP:
        _check_fsdp(plan, accelerator)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        plugin: Any = accelerator.state.deepspeed_plugin
        if plugin.zero_stage == 3:
            raise ValueError(
                "DeepSpeed's ZeRO stage 3 divides the student, which is evaluated and exported whole; use "
                "zero_stage 1 or 2, or recipes/launch/fsdp2.yaml"
            )
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = plan.layout.part  # it cannot ask a loader of ours


def _check_fsdp(plan: Plan, accelerator: Accelerator) -> None:
    if not accelerator.is_fsdp2:
        raise ValueError("FSDP is asked for in version 1; set fsdp_version: 2, as in recipes/launch/fsdp2.yaml")
    if plan.recipe.optim.ema_decay is not None:
        raise ValueError(
            f"optim.ema_decay is {plan.recipe.optim.ema_decay} but FSDP divides the student, and no moving average "
            "of it is kept; use --optim.ema-decay None, or recipes/launch/one_node.yaml"
        )
    for teacher in members(plan.recipe.teacher) if plan.recipe.teacher else ():
        if teacher.head == "fit":
            raise ValueError(
                f"the head of '{teacher.name}' is to be fitted but FSDP divides the teacher; fit it first with "
                "python -m distill teacher fit, or use recipes/launch/one_node.yaml"
            )
        if teacher.runtime not in ("auto", "eager"):
            raise ValueError(
                f"'{teacher.name}' is to run on {teacher.runtime} but FSDP divides it, and then it runs eagerly; use "
                "--teacher.runtime auto"
            )


def _launched_alone_with_others() -> bool:
    # The launcher of one process leaves these when it was told of several, and no number of this process.
    of_launcher = os.environ.get("KMP_AFFINITY") == "granularity=fine,compact,1,0" and "MASTER_ADDR" in os.environ
    return of_launcher and not {"RANK", "LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"} & {
        *os.environ
    }
