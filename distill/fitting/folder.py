"""The folder of a new teacher: whose it is, whether it is finished, and what is written into it at the end."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from distill.evaluate import Score, score, summed
from distill.fitting.card import card
from distill.fitting.task import Task
from distill.folder import write
from distill.loader import in_order
from distill.preflight import check_folder
from distill.processes import from_main, meet
from distill.recipe import differences
from distill.teaching import BATCH_SIZE
from students.preprocess import Preprocess
from teachers import Teacher, classifier, source
from teachers import folder as timm_folder
from teachers.runtime import smooth_noise

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.console import Console

RECORD = "teacher.json"
OURS = (RECORD, "README.md", "config.json", "model.safetensors", "metrics.jsonl", "checkpoints")


@dataclass(frozen=True, kw_only=True)
class Made:
    """A timm model with a head for the task's classes, calibrated, and how it came to be.

    model: in eval mode on the CPU. temperature: what its logits were divided by. how: lines for the card.
    """

    model: Any
    temperature: float
    how: tuple[str, ...]


def claim(out: Path, settings: Any, accelerator: Accelerator, *, again: bool) -> Literal["begin", "resume", "finished"]:
    """Decide what is done in `out`, the same on every process, and make it ready.

    settings: JSON values that decide what is made. again: start over; what is ours goes, nothing else does.
    ValueError if it cannot be written, holds other things, or holds what was made with other settings.
    """
    return from_main(accelerator, lambda: _claim(out, settings, again))


def _claim(out: Path, settings: Any, again: bool) -> Literal["begin", "resume", "finished"]:
    state = _state(out, settings, again)
    if state == "begin":
        check_folder(out)
        for name in OURS:
            path = out / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        write(out / RECORD, {"settings": settings})
    return state


def _state(out: Path, settings: Any, again: bool) -> Literal["begin", "resume", "finished"]:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return "begin"
    if not (out / RECORD).is_file():
        raise ValueError(f"{out} is not empty and holds no {RECORD}; choose another folder with --out")
    if again:
        return "begin"
    record = json.loads((out / RECORD).read_text(encoding="utf-8"))
    changed = differences(record["settings"], settings)
    if changed:
        raise ValueError(
            f"{out} holds a teacher that was made in another way ({'; '.join(changed[:3])}"
            f"{' …' if len(changed) > 3 else ''}); choose another folder with --out"
        )
    return "finished" if "results" in record else "resume"


def finish(
    out: Path,
    settings: Any,
    task: Task,
    made: Made,
    accelerator: Accelerator,
    console: Console,
    *,
    command: str,
    workers: int,
) -> None:
    """Save the model, measure what was saved on the validation images, and write the card and the record."""
    plan = source.plan(task.teacher)
    views = task.recipe.views
    if accelerator.is_main_process:
        x = example(plan)
        timm_folder.save(
            made.model,
            out,
            plan,
            x,
            label_names=task.classes,
            crop_pct=views.crop_pct,
            interpolation=views.val_interpolation,
        )
    meet(accelerator)
    saved = Teacher(name=str(out), runtime=task.teacher.runtime)
    scores = measure(saved, task, made.temperature, accelerator, console, workers)
    if accelerator.is_main_process:
        results = {
            "temperature": made.temperature,
            "uncalibrated": _figures(scores["uncalibrated"]),
            "calibrated": _figures(scores["calibrated"]),
        }
        write(out / "README.md", card(task, plan, made.how, made.temperature, scores, command=command))
        shutil.rmtree(out / "checkpoints", ignore_errors=True)  # nothing goes on from them any more
        write(out / RECORD, {"settings": settings, "results": results})  # last, because it marks the end
    meet(accelerator)
    after = scores["calibrated"]
    console.say(f"{out}: {console.accuracy(after)}, nll {after.nll:.3f}, calibration error {after.ece:.3f}")
    console.say(f"use it with --teacher.name {out} --teacher.head own; its figures are in {out / 'README.md'}")


def measure(
    config: Teacher, task: Task, temperature: float, accelerator: Accelerator, console: Console, workers: int
) -> dict[str, Score]:
    """A saved teacher on the validation images, as it is ("calibrated") and with the temperature taken back."""
    teacher = config.build().start(accelerator.device)
    said: list[Tensor] = []  # so that one forward answers for both

    def calibrated(views: Tensor) -> Tensor:
        with accelerator.autocast():
            said.append(teacher(views).logits.float())
        return said[0]

    def uncalibrated(views: Tensor) -> Tensor:
        return said.pop() * temperature

    batches = in_order(
        task.val,
        task.plain,
        batch_size=BATCH_SIZE,
        workers=workers,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    with console.counting("validation images", len(task.val)) as counter:
        return score(
            {"calibrated": calibrated, "uncalibrated": uncalibrated},
            batches,
            device=accelerator.device,
            total=len(task.val),
            reduce=summed(accelerator),
            advance=lambda images: counter.advance(images * accelerator.num_processes),
        )


def example(plan: source.Plan) -> Any:
    """Normalised images [3, C, H, W], always the same, on which two ways to the same logits are compared."""
    mean, std = source.statistics(plan)
    return Preprocess(plan.img_size, mean, std)(smooth_noise(len(mean)))


def set_head(model: Any, head: Any, plan: source.Plan) -> None:
    """Give a timm model, in eval mode on the CPU, a fitted head for its own."""
    classifier.put(model, head.weight.cpu(), head.bias.cpu(), example(plan), plan.name)


def _figures(result: Score) -> dict[str, float | None]:
    return {name: getattr(result, name) for name in ("labelled", "top1", "top5", "nll", "ece")}
