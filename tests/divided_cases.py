"""Ten steps of every recipe's losses on tiny models, divided among the processes that run this.

torchrun --standalone --nproc_per_node 2 tests/divided_cases.py OUT.pt DATA.npz TEACHER FOLDER
"""

import json
import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from distill import Arrays, Optim, Recipe, preflight
from distill.console import Console
from distill.options import RunOptions
from distill.script import recipe_of
from distill.teaching import make_teacher
from distill.train import train
from teachers import Teacher
from teachers.ensemble import Ensemble

REPOSITORY = Path(__file__).parents[1]
STEPS = 10
DROPS = {"drop_path_rate": 0.2, "drop_rate": 0.1, "pos_drop_rate": 0.1, "proj_drop_rate": 0.1, "attn_drop_rate": 0.1}


def recipes(data: str, teacher: str) -> dict[str, Recipe]:
    """Every combination of losses that a recipe has, once, on tiny models of the same depth; and the tests' own."""
    found: dict[str, Recipe] = {}
    for script in [REPOSITORY / "tests" / "tiny_recipe.py", *sorted((REPOSITORY / "recipes").rglob("*.py"))]:
        if script.parent.name in ("studies", "data") or "recipe = " not in script.read_text():
            continue
        recipe = recipe_of(script)
        if isinstance(recipe.teacher, Ensemble):
            continue  # its losses name its members
        small = {"img_size": 28, "patch_size": 7, "in_chans": 1, "num_classes": 10, "embed_dim": 16, "num_heads": 2}
        tiny = replace(
            recipe,
            student=replace(recipe.student, **small, mean=None, std=None, init_values=None),
            teacher=Teacher(name=teacher, runtime="eager"),
            data=Arrays(path=data),
            views=replace(recipe.views, img_size=None, auto_augment=None, color_jitter=None),
            optim=Optim(epochs=1, batch_size=32, lr=2e-3, warmup_epochs=0, clip_grad=1.0),
        )
        if script.stem == "tiny_recipe":
            tiny = replace(tiny, student=replace(tiny.student, **DROPS), optim=replace(tiny.optim, ema_decay=0.9))
        if kind(tiny) not in map(kind, found.values()):
            found[str(script.relative_to(REPOSITORY))] = tiny
    return found


def kind(recipe: Recipe) -> tuple:
    """What sets one recipe apart from another here."""
    return sorted(type(loss).__name__ for loss in recipe.losses.values()), recipe.student.distilled, recipe.views.mixes


def without_couples(recipe: Recipe) -> Recipe:
    """The recipe without the losses that compare images, of which accumulation shows fewer at once."""
    losses = {name: loss for name, loss in recipe.losses.items() if not loss.needs.couples}
    return replace(recipe, losses=losses)


def shallow(recipe: Recipe) -> Recipe:
    """The recipe for five large steps of a student of two blocks; a token [1, 1, D] is more than it has processes."""
    return replace(
        recipe, student=replace(recipe.student, depth=2), optim=Optim(epochs=1, batch_size=128, warmup_epochs=0)
    )


def measure(recipe: Recipe, folder: Path, accumulate: int = 1, steps: int | None = STEPS, **options) -> dict:
    """The terms of every step [steps, terms], and the student's weights."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    plan = preflight.check(recipe, processes=accelerator.num_processes, accumulate=accumulate)
    console = Console(main=False)
    layers = plan.objective.teacher_layers
    teacher = make_teacher(recipe, accelerator, console, layers=layers, head=None, images=plan.train)
    folder.mkdir(parents=True, exist_ok=True)
    given = RunOptions(log_every_steps=1, **options)
    student = train(plan, teacher, accelerator, folder, given, console, workers=0, stop_step=steps)
    accelerator.wait_for_everyone()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = [name for name in lines[0] if name.startswith("loss")]
    return {
        "terms": torch.tensor([[line[name] for name in names] for line in lines if names[0] in line]),
        "weights": torch.cat([weight.flatten() for weight in student.state_dict().values()]),
        "names": list(student.state_dict()),
        "teacher": teacher.runtime_note,
    }


@contextmanager
def fsdp2():
    """accelerate's FSDP2 on a CPU, where only its choice of it is missing."""
    accelerator = Accelerator(cpu=True)
    before = accelerator.distributed_type
    how = {"cpu_ram_efficient_loading": False, "state_dict_type": "FULL_STATE_DICT"}  # as recipes/launch/fsdp2.yaml
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, **how)
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    try:
        yield
    finally:
        accelerator.state.distributed_type = PartialState._shared_state["distributed_type"] = before


def main() -> None:
    out, data, teacher, folder = sys.argv[1:5]
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    aside, found = Path(folder), {}
    every = recipes(data, teacher)
    for number, (name, recipe) in enumerate(every.items()):
        found[name] = measure(recipe, aside / str(number))
    first = every["tests/tiny_recipe.py"]
    if accelerator.num_processes == 1:
        found["at once"] = measure(without_couples(first), aside / "once")
        found["accumulated"] = measure(without_couples(first), aside / "accumulated", accumulate=2)
        found["whole"] = measure(shallow(first), aside / "whole", steps=None)
    else:
        with fsdp2():
            run = {"recipe": shallow(first), "folder": aside / "divided", "steps": None, "checkpoint_every_steps": 3}
            found["divided"] = measure(**run)
            accelerator.wait_for_everyone()
            shutil.rmtree(run["folder"] / "checkpoints" / "step_000000005", ignore_errors=True)
            accelerator.wait_for_everyone()
            found["divided and resumed"] = measure(**run)
    if accelerator.is_main_process:
        torch.save(found, out)
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
