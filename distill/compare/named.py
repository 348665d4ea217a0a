"""What a user names: run folders, timm names and folders, ONNX files; each of them loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import students
from distill.compare.candidate import Candidate, keyed
from distill.compare.models import student_candidate, teacher_candidate, timm_candidate, weights_file
from distill.compare.onnxfile import onnx_candidate
from distill.compare.options import OnnxInput
from distill.compare.terms import of_views
from distill.console import Console
from distill.folder import read_recipe, student_folder
from distill.nearest import no_model
from distill.recipe import Recipe, to_json, without_runtime
from distill.teaching import kept_head, make_teacher

if TYPE_CHECKING:
    from accelerate import Accelerator


TAKES = "a run folder such as runs/quickstart, a timm name such as resnet18.a1_in1k, a timm folder or an ONNX file"


@dataclass(frozen=True)
class Named:
    """What was named, before any model is loaded: the run folders with their recipes, and the other words."""

    words: tuple[str, ...]
    runs: dict[Path, Recipe]

    @property
    def alone(self) -> dict[str, str]:
        """Run folder -> the run folder of the same recipe without a teacher, where both were named."""
        as_json = {folder: to_json(recipe) for folder, recipe in self.runs.items() if recipe.teacher is None}
        found = {}
        for folder, recipe in self.runs.items():
            if recipe.teacher is not None:
                without = to_json(recipe.without_teacher())
                found |= {str(folder): str(other) for other, own in as_json.items() if own == without}
        return found


def read(words: Sequence[str]) -> Named:
    """ValueError for a folder that is nothing that can be measured, a run without a student, or a word named twice."""
    if not words:
        raise ValueError(f"nothing was named; name {TAKES}")
    seen: set[str] = set()
    runs = {}
    for word in words:
        path = Path(word)
        if (place := str(path.resolve()) if path.exists() else word) in seen:
            raise ValueError(f"{word} is named twice; name each model once")
        seen.add(place)
        if not path.is_dir():
            _check(word)
        if not path.is_dir() or (path / "config.json").is_file():
            continue
        runs[path] = read_recipe(path)
        student_folder(path)
    return Named(tuple(words), runs)


def _check(word: str) -> None:
    """ValueError for a word that is no folder, and neither an ONNX file nor a name that timm knows."""
    if Path(word).suffix.lower() == ".onnx" or word.startswith(("hf-hub:", "local-dir:")):
        return
    from teachers.names import nearest, to_timm

    try:
        to_timm(word)
    except ValueError:
        raise no_model(word, TAKES, nearest(word)) from None


def load_one(word: str, accelerator: Accelerator, *, onnx: OnnxInput, fast: bool = False) -> Candidate:
    """The model that a word names: of a run folder its student alone, for which no recipe is read.

    ValueError if it names none, or none that decides between classes.
    """
    path = Path(word)
    if path.is_dir():  # whatever timm calls by that name
        return timm_candidate(f"local-dir:{student_folder(path)}", accelerator, fast=fast)
    _check(word)
    return (
        onnx_candidate(path, onnx) if path.suffix.lower() == ".onnx" else timm_candidate(word, accelerator, fast=fast)
    )


def load(named: Named, accelerator: Accelerator, console: Console, *, onnx: OnnxInput, fast: bool) -> list[Candidate]:
    """The teachers of the runs, each once and first, then the models in the order in which they were named."""
    teachers: dict[str, Candidate] = {}
    models: list[Candidate] = []
    for word in named.words:
        folder = Path(word)
        if folder not in named.runs:
            with console.rich.status("loading " + word.replace("[", r"\[")):
                models.append(load_one(word, accelerator, onnx=onnx, fast=fast))
        else:
            recipe = named.runs[folder]
            taught_by = teacher_digest(recipe, folder)
            if taught_by and taught_by not in teachers:
                teachers[taught_by] = _teacher(recipe, folder, taught_by, accelerator, console)
            models.append(_student(recipe, folder, taught_by, accelerator))
        models[-1] = replace(models[-1], asked=word)
    return keyed([*teachers.values(), *models])


def teacher_digest(recipe: Recipe, folder: Path) -> str | None:
    """The same for two runs whose teachers say the same of the same images, however they run."""
    if recipe.teacher is None:
        return None
    terms = of_views(recipe.views, recipe.view_size, recipe.student.in_chans)
    heads = [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("teacher_head*.safetensors"))]
    classes = list(recipe.data.classes) if getattr(recipe.teacher, "class_map", None) else []
    parts: list[Any] = [without_runtime(to_json(recipe.teacher)), repr(terms), heads, classes]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def names_in(folder: Path) -> tuple[str, ...]:
    """The class names that a run's student was saved with; () if it has none."""
    content = json.loads((folder / "student" / "config.json").read_text(encoding="utf-8"))
    return tuple(content["pretrained_cfg"].get("label_names") or ())


def _student(recipe: Recipe, folder: Path, taught_by: str | None, accelerator: Accelerator) -> Candidate:
    return student_candidate(
        students.load(folder / "student").to(accelerator.device),
        folder,
        accelerator,
        baseline=recipe.teacher is None,
        terms=of_views(recipe.views, recipe.view_size, recipe.student.in_chans),
        names=names_in(folder),
        taught_by=taught_by,
    )


def _teacher(recipe: Recipe, folder: Path, digest: str, accelerator: Accelerator, console: Console) -> Candidate:
    assert recipe.teacher is not None
    head = kept_head(recipe, folder)
    teacher = make_teacher(recipe, accelerator, console, layers=(), head=head, images=recipe.data.val())
    return teacher_candidate(
        teacher,
        accelerator,
        terms=of_views(recipe.views, recipe.view_size, recipe.student.in_chans),
        names=names_in(folder),
        source=recipe.teacher.weights_source(),
        taught_by=digest,
        file=weights_file(recipe.teacher),
    )
