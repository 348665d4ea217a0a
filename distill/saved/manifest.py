"""What a folder of saved outputs holds, and what it was saved for: manifest.json and the places of the shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from distill import folder as run_folder
from distill.loader import batches_at
from distill.mixing import mix
from distill.preflight import Plan
from distill.recipe import Recipe, to_json, without_runtime
from distill.saved.answers import Answers
from distill.views import train_transform
from teachers.teacher import Teacher

FILE = "manifest.json"
FORMAT = 1
GLIMPSED = 16  # views of the first epoch; each random operation is likely to have touched one of them
TOLERANCE = 1e-3  # of the mean of a quarter of a view, in 0..1; the same view on another processor stays far below it


@dataclass(frozen=True)
class Shard:
    """Rows of positions start … start + rows of an epoch, in the file `path`; `checksum` is the file beside it."""

    epoch: int
    start: int
    rows: int
    path: Path

    @property
    def checksum(self) -> Path:
        return self.path.with_suffix(".sha256")

    def is_whole(self, row_bytes: int) -> bool:
        """Whether the file is there in its full length; its name is given only to a finished one."""
        return self.path.is_file() and self.path.stat().st_size == self.rows * row_bytes


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What was saved, and for which views.

    fingerprint: what the views and the teacher's answers are a function of. glimpse: means of the quarters of the first
    views [n][4], which tell other versions of what draws them. positions: images an epoch, whole batches of them.
    weights: sha256 of the teacher's weights and head. made_with: versions, precision and images asked about at once.
    """

    fingerprint: dict[str, Any]
    glimpse: list[list[float]]
    answers: Answers
    epochs: int
    positions: int
    shard_images: int
    weights: str
    made_with: dict[str, Any]

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards together."""
        return self.epochs * self.positions * self.answers.bytes_per_image

    def shards(self, folder: Path) -> Iterator[Shard]:
        """All shards in order of epoch and position."""
        for epoch in range(self.epochs):
            for number, start in enumerate(range(0, self.positions, self.shard_images)):
                rows = min(self.shard_images, self.positions - start)
                yield Shard(epoch, start, rows, folder / f"epoch_{epoch:04d}" / f"shard_{number:05d}.bin")

    def as_json(self) -> dict[str, Any]:
        return {"format": FORMAT} | asdict(self)

    def write(self, folder: Path) -> None:
        run_folder.write(folder / FILE, self.as_json())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """ValueError if the folder has none, or if it is not as this version writes them."""
        try:
            value = json.loads((folder / FILE).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(
                f"{folder} holds no saved outputs (it has no {FILE}); write them with python -m distill save RECIPE "
                f"--out {folder}"
            ) from None
        except ValueError as error:
            raise ValueError(f"{folder / FILE} is not JSON ({error})") from None
        try:
            return cls._of(value)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{folder / FILE} is not as this version writes it ({type(error).__name__}: {error}); save again"
            ) from None

    @classmethod
    def _of(cls, value: dict[str, Any]) -> Self:
        # A file from elsewhere is not trusted: its numbers give sizes, and none of its words a path.
        _require(value["format"] == FORMAT, f"format {value['format']}")
        kept = Answers(**value["answers"])
        for number in (value["epochs"], value["positions"], value["shard_images"], kept.num_classes):
            _require(type(number) is int and number > 0, f"{number!r} is no whole number above 0")
        _require(type(kept.embedding) is int and kept.embedding >= 0, f"embedding {kept.embedding!r}")
        _require(kept.k is None or type(kept.k) is int, f"k {kept.k!r}")
        _require(kept.dtype in ("float16", "float32"), f"dtype {kept.dtype!r}")
        _require(all(len(row) == 4 for row in value["glimpse"]), "glimpse is no table of quarters")
        for name in ("fingerprint", "made_with"):
            _require(isinstance(value[name], dict), f"{name} is no object")
        known: dict[str, Any] = {field.name: value[field.name] for field in fields(cls)}
        known["answers"] = kept
        return cls(**known)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise TypeError(otherwise)


def fingerprint(plan: Plan) -> dict[str, Any]:
    """All that the order, the views, the mixtures and the teacher's answers are a function of, as plain JSON values."""
    recipe, student = plan.recipe, plan.recipe.student
    assert plan.teacher is not None
    return {
        "data": recipe.data.fingerprint(),
        "images": len(plan.train),
        "views": to_json(recipe.views)
        | {"size": to_json(recipe.view_size), "channels": student.in_chans}
        | {"mean": to_json(student.input_mean), "std": to_json(student.input_std)},
        "seed": recipe.seed,
        "batch_size": plan.layout.batch_size,
        "teacher": _named_alike(without_runtime(to_json(recipe.teacher))),
        "teacher_files": _files(recipe.teacher),
        "class_map": _groups(recipe),
        "num_classes": plan.teacher.num_classes,
    }


def _named_alike(teacher: Any) -> Any:
    # A script's own function is __main__'s when the script runs and __recipe__'s when `save` reads it.
    return json.loads(json.dumps(teacher).replace("__recipe__", "__main__"))


def _groups(recipe: Recipe) -> Any:
    """Which of the teacher's classes stand for each of the data's; None where they are the same ones."""
    if not isinstance(recipe.teacher, Teacher) or recipe.teacher.class_map is None:
        return None
    mapped = recipe.teacher.mapped(recipe.data.classes)
    return None if mapped is None else to_json(mapped.groups)


def glimpse(plan: Plan) -> list[list[float]]:
    """Means in 0..1 of the quarters of the first views of epoch 0 as a model sees them, [n][4], rounded."""
    recipe, student = plan.recipe, plan.recipe.student
    size = min(GLIMPSED, plan.layout.batch_size)
    transform = train_transform(recipe.views, recipe.view_size, student.in_chans, student.input_mean, student.input_std)
    batch = next(
        batches_at(lambda: [(0, 0)], plan.layout, plan.train, transform, size=size, seed=recipe.seed, workers=0)
    )
    views = batch.views
    if recipe.views.mixes:
        views, _ = mix(views, None, recipe.views, 0, seed=recipe.seed, epoch=0, position=0)
    return _quarters(views)


def versions() -> dict[str, str]:
    """Of all that draws a view or computes an answer."""
    return {name: version(name) for name in ("torch", "torchvision", "timm", "numpy", "pillow")}


def _quarters(views: Tensor) -> list[list[float]]:
    pixels = views.double() / 255 if views.dtype == torch.uint8 else views.double()
    means = F.adaptive_avg_pool2d(pixels, 2).mean(1).flatten(1)  # [n, 4]
    return [[round(value, 6) for value in row] for row in means.tolist()]


def _files(value: Any) -> list[str]:
    """The sha256 of each weights file on this disk that a teacher, or each of several, is named by."""
    if isinstance(value, Teacher):
        named = Path(value.checkpoint or value.name.removeprefix("local-dir:"))
        files = sorted(named.iterdir()) if named.is_dir() else [named] if named.is_file() else []
        return [sha256(file) for file in files if file.suffix in {".safetensors", ".bin", ".pt", ".pth", ".json"}]
    if is_dataclass(value):
        return [digest for field in fields(value) for digest in _files(getattr(value, field.name))]
    if isinstance(value, (tuple, list)):
        return [digest for item in value for digest in _files(item)]
    return []


def sha256(file: Path) -> str:
    """Of a file's bytes, in hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
