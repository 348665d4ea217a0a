"""`--compile`: the student's blocks through torch.compile, one graph for all but the last, and no parameter renamed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from distill.options import RunOptions
from distill.recipe import Recipe
from students import ViT
from teachers.runtime import check_installed

if TYPE_CHECKING:
    from accelerate import Accelerator


def asked(options: RunOptions, accelerator: Accelerator) -> bool:
    """Whether --compile, `accelerate launch --dynamo_backend …` or its configuration asks to compile."""
    from accelerate.utils import DynamoBackend

    plugin: Any = accelerator.state.dynamo_plugin
    return options.compile or plugin.backend != DynamoBackend.NO


def take_over(accelerator: Accelerator) -> dict[str, Any]:
    """What torch.compile is to be told, from accelerate's dynamo plugin, which is switched off.

    accelerate would wrap the whole objective, and `_orig_mod.` would stand in the names of every checkpoint.
    """
    from accelerate.utils import DynamoBackend

    plugin: Any = accelerator.state.dynamo_plugin
    how = {name: getattr(plugin, name) for name in ("mode", "fullgraph", "dynamic", "options", "disable")}
    if plugin.backend != DynamoBackend.NO:
        how["backend"] = plugin.backend.value.lower()
        plugin.backend = DynamoBackend.NO
    return how


def compile_blocks(student: ViT, how: dict[str, Any]) -> None:
    """Have each block compiled at its first call. `how`: arguments of torch.compile."""
    for block in student.blocks:
        block.compile(**how)


def with_compiled_teacher(recipe: Recipe, options: RunOptions, accelerator: Accelerator) -> Recipe:
    """The recipe, where compiling is asked for with inductor for every teacher that was left to choose how it runs.

    But where onnxruntime can serve them, on a CPU in float32, it does: it is as fast as inductor there, or faster.
    """

    def compiled(teacher: Any) -> Any:
        if hasattr(teacher, "members"):
            return replace(teacher, members=tuple(map(compiled, teacher.members)))
        return replace(teacher, runtime="inductor") if teacher.runtime == "auto" else teacher

    if recipe.teacher is None or not asked(options, accelerator) or _served_by_onnxruntime(accelerator):
        return recipe
    return replace(recipe, teacher=compiled(recipe.teacher))


def _served_by_onnxruntime(accelerator: Accelerator) -> bool:
    if accelerator.device.type != "cpu" or accelerator.mixed_precision != "no":
        return False
    try:
        check_installed("onnxruntime")
    except ValueError:
        return False
    return True
