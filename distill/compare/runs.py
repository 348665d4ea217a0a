"""Measure the teacher and the students of run folders on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import students
from distill.console import Console
from distill.data import Images
from distill.evaluate import Model, Score, interval, score, summed
from distill.folder import read_recipe
from distill.loader import default_workers, in_order
from distill.recipe import Recipe, to_json, without_runtime
from distill.teaching import kept_head, make_teacher
from distill.views import Transform, val_transform
from students import ViT
from students.preprocess import Preprocess

if TYPE_CHECKING:
    from accelerate import Accelerator

    from teachers.frozen_ensemble import AnyFrozen

BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model of the report. Shares are in 0..1, intervals are 95 %, kl is in nats; None: nothing to compare with.

    agreement, kl: against the teacher. kept: the share of the teacher's top-1 that the model has.
    run: the model's run folder. alone: that of the same recipe without a teacher, where it was measured too.
    """

    role: Literal["teacher", "student", "baseline"]
    name: str
    top1: float | None
    top1_interval: tuple[float, float] | None
    top5: float | None
    top5_interval: tuple[float, float] | None
    nll: float | None
    agreement: float | None
    kl: float | None
    kept: float | None
    params: int
    images: int
    run: str | None = None
    alone: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A model to be measured, and the run folder it came from, None for a teacher."""

    role: Literal["teacher", "student", "baseline"]
    name: str
    params: int
    logits: Model
    run: str | None = None


def compare_runs(folders: Sequence[Path], accelerator: Accelerator, console: Console) -> list[Row]:
    """A row for the teacher of the first run that has one, then one for the student of each run.

    ValueError if a folder holds no finished student, or if two runs were not validated on the same images.
    """
    if len(set(folders)) < len(folders):
        raise ValueError(f"{folders[0]} is named twice; name each run folder once")
    recipes = {folder: read_recipe(folder) for folder in folders}
    first = recipes[folders[0]]
    _check_same_images(recipes)
    _check_one_teacher(recipes)
    candidates = [_student(folder, recipe, accelerator) for folder, recipe in recipes.items()]
    images = first.data.val()
    taught = next((folder for folder, recipe in recipes.items() if recipe.teacher), None)
    if taught is not None:
        head = kept_head(recipes[taught], taught)
        teacher = make_teacher(recipes[taught], accelerator, console, layers=(), head=head, images=images)
        candidates.insert(0, teacher_candidate(teacher, accelerator))
    transform = val_transform(first.views, first.view_size, first.student.in_chans)
    rows = measure(candidates, images, transform, accelerator, console)
    baselines = {str(folder): to_json(recipe) for folder, recipe in recipes.items() if recipe.teacher is None}
    return [replace(row, alone=_alone(row, recipes, baselines)) for row in rows]


def _alone(row: Row, recipes: Mapping[Path, Recipe], baselines: Mapping[str, Any]) -> str | None:
    if row.role != "student" or row.run is None:
        return None
    alone = to_json(recipes[Path(row.run)].without_teacher())
    return next((folder for folder, recipe in baselines.items() if recipe == alone), None)


def measure(
    candidates: Sequence[Candidate], images: Images, transform: Transform, accelerator: Accelerator, console: Console
) -> list[Row]:
    """A row for each candidate, all on the same views; the first is the reference if it is a teacher."""
    names = [f"{number}" for number in range(len(candidates))]
    has_teacher = candidates[0].role == "teacher"
    batches = in_order(
        images,
        transform,
        batch_size=BATCH_SIZE,
        workers=default_workers(1),
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    with console.counting("compare", len(images)) as counter:
        scores = score(
            {name: candidate.logits for name, candidate in zip(names, candidates, strict=True)},
            batches,
            device=accelerator.device,
            total=len(images),
            reference=dict.fromkeys(names[1:], names[0]) if has_teacher else None,
            reduce=summed(accelerator),
            advance=lambda done: counter.advance(done * accelerator.num_processes),
        )
    teacher = scores[names[0]] if has_teacher else None
    return [_row(candidate, scores[name], teacher) for name, candidate in zip(names, candidates, strict=True)]


def _row(candidate: Candidate, own: Score, teacher: Score | None) -> Row:
    def bounds(share: float | None) -> tuple[float, float] | None:
        return None if share is None else interval(share, own.labelled)

    return Row(
        role=candidate.role,
        name=candidate.name,
        top1=own.top1,
        top1_interval=bounds(own.top1),
        top5=own.top5,
        top5_interval=bounds(own.top5),
        nll=own.nll,
        agreement=own.agreement,
        kl=own.kl,
        kept=own.top1 / teacher.top1 if teacher and teacher.top1 and own.top1 is not None else None,
        params=candidate.params,
        images=own.images,
        run=candidate.run,
    )


def _student(folder: Path, recipe: Recipe, accelerator: Accelerator) -> Candidate:
    if not (folder / "student" / "config.json").is_file():
        raise ValueError(f"{folder} has no student yet; run its recipe again to finish it")
    model = students.load(folder / "student").to(accelerator.device)
    return student_candidate(model, folder, accelerator, baseline=recipe.teacher is None)


def student_candidate(model: ViT, folder: Path, accelerator: Accelerator, *, baseline: bool) -> Candidate:
    """A student as a candidate, in eval mode on the accelerator's device."""
    config = model.eval().config
    preprocess = Preprocess(config.img_hw, config.input_mean, config.input_std).to(accelerator.device)

    def logits(views):
        with accelerator.autocast():
            return model(preprocess(views))

    params = sum(parameter.numel() for parameter in model.parameters())
    return Candidate("baseline" if baseline else "student", folder.name, params, logits, str(folder))


def teacher_candidate(teacher: AnyFrozen, accelerator: Accelerator) -> Candidate:
    """A teacher as a candidate."""

    def logits(views):
        with accelerator.autocast():
            return teacher(views).logits

    return Candidate("teacher", teacher.name, teacher.num_params(), logits)


def _check_same_images(recipes: Mapping[Path, Recipe]) -> None:
    def seen(recipe: Recipe) -> Any:
        return to_json(recipe.data), recipe.views.crop_pct, recipe.view_size, recipe.student.in_chans

    (first, recipe), *others = recipes.items()
    for folder, other in others:
        if seen(other) != seen(recipe):
            raise ValueError(f"{folder} and {first} were not validated on the same views; compare them apart")


def _check_one_teacher(recipes: Mapping[Path, Recipe]) -> None:
    teachers = {folder: recipe.teacher for folder, recipe in recipes.items() if recipe.teacher}
    for folder, teacher in teachers.items():
        first = next(iter(teachers))
        if without_runtime(to_json(teacher)) != without_runtime(to_json(teachers[first])):
            raise ValueError(f"{folder} and {first} have different teachers; compare each with its own")


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """The rows as `report.json` holds them."""
    return {"models": [asdict(row) for row in rows]}
