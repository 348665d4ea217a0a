"""FSDP2, where accelerate's configuration asks for it: weights divided among the processes, the teacher's too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from distill.objective import Objective
from students import ViT
from teachers.frozen_ensemble import AnyFrozen, FrozenEnsemble

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.distributed.device_mesh import DeviceMesh

PARTS = 8  # what holds more than this part of a teacher's weights is divided into what it is made of
TIMM_METHODS = ("forward_features", "forward_intermediates", "forward_head")


def shards(accelerator: Accelerator) -> bool:
    """Whether weights are divided among the processes."""
    return accelerator.is_fsdp2


def shard_objective(objective: Objective, accelerator: Accelerator) -> None:
    """Divide the student block by block, and with the projections what is left; accelerate takes it as it then is.

    Its own way would wrap by the names of classes. Weights stay in float32 and autocast decides as it does elsewhere.
    """
    from torch.distributed.fsdp import fully_shard

    plugin: Any = accelerator.state.fsdp_plugin
    how = {"reshard_after_forward": plugin.reshard_after_forward, "offload_policy": plugin.cpu_offload}
    for module in (*objective.student.blocks, objective):
        fully_shard(module, mesh=_mesh(accelerator), **how)


def rebind(optimizer: torch.optim.Optimizer, of_parameters: torch.optim.Optimizer) -> None:
    """Give a prepared optimiser the parameters of one that was built alike on the divided objective.

    accelerate finds them by their memory's addresses, and those of which a process has no part share the address 0.
    """
    for group, same in zip(optimizer.param_groups, of_parameters.param_groups, strict=True):
        group["params"] = same["params"]


def shard_teacher(teacher: AnyFrozen, accelerator: Accelerator) -> AnyFrozen:
    """Divide a teacher on the CPU among the processes, whose devices never hold the whole of it. It runs eagerly."""
    for member in teacher.members if isinstance(teacher, FrozenEnsemble) else [teacher]:
        _shard_frozen(member.model, accelerator)
        member.to(accelerator.device)
        member.runtime_note = f"eager, divided among {accelerator.num_processes} processes"
    return teacher


def whole(student: ViT) -> ViT:
    """A copy of a divided student with all its weights, on the CPU of every process."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    weights: dict[str, Any] = get_model_state_dict(student, options=StateDictOptions(full_state_dict=True))
    alone = student.config.build()
    alone.load_state_dict({name: tensor.cpu() for name, tensor in weights.items()})
    return alone


def _shard_frozen(model: nn.Module, accelerator: Accelerator) -> None:
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = _mesh(accelerator)
    limit = _size(model) / PARTS

    def divide(module: nn.Module) -> None:
        for child in module.children():
            if _size(child) > limit:
                divide(child)
            elif module is not model and _size(child):
                fully_shard(child, mesh=mesh)

    divide(model)
    fully_shard(model, mesh=mesh)  # and what is left, such as tokens and heads
    for method in TIMM_METHODS:
        register_fsdp_forward_method(model, method)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _mesh(accelerator: Accelerator) -> DeviceMesh:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
