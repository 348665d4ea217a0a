"""A student that timm has no words for as a teacher: what `students.save` wrote as architecture "students.ViT"."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

import students
from students.outputs import Shapes
from students.preprocess import Preprocess
from teachers.frozen import FrozenTeacher

if TYPE_CHECKING:
    from teachers.classmap import ClassMap
    from teachers.head import Head
    from teachers.teacher import Teacher


def folder(teacher: Teacher) -> Path | None:
    """The folder of such a student, if the teacher is one. ValueError with a checkpoint, which timm's models take."""
    path = Path(teacher.name.removeprefix("local-dir:"))
    try:
        content = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # timm's names, and what is wrong with a folder, are for `teachers.source` to say
    if not isinstance(content, dict) or content.get("architecture") != "students.ViT":
        return None
    if teacher.checkpoint is not None:
        raise ValueError(f"teacher {path} is a saved student with weights of its own; leave out the checkpoint")
    return path


def shapes(teacher: Teacher, path: Path) -> Shapes:
    """The shapes of its outputs; its logits are the mean of both heads."""
    return replace(_config(teacher, path).shapes(), has_token=False)


def label_names(path: Path) -> tuple[str, ...] | None:
    """The names of its classes, if it was saved with them."""
    names = _content(path)["pretrained_cfg"].get("label_names")
    return tuple(names) if names else None


def build(teacher: Teacher, path: Path, head: Head | None, class_map: ClassMap | None) -> FrozenTeacher:
    """The frozen module on the CPU, its position embedding resized to the teacher's img_size."""
    config = _config(teacher, path)
    return FrozenTeacher(
        StudentCore(students.load(path, img_size=config.img_size)),
        name=teacher.name,
        shapes=shapes(teacher, path),
        preprocess=Preprocess(config.img_hw, config.input_mean, config.input_std),
        head=head,
        class_map=class_map,
        runtime=teacher.runtime,
    )


class StudentCore(nn.Module):
    """A student with the three methods that a `FrozenTeacher` calls, `runtime.Core`; features are logits, embedding."""

    def __init__(self, student: students.ViT) -> None:
        super().__init__()
        self.student = student

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_intermediates(x, [])[0]

    def forward_intermediates(self, x: Tensor, indices: list[int]) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
        """Normalised images [B, C, H, W] -> (logits [B, K], embedding [B, D]), and the layers' grids [B, C, H, W]."""
        out = self.student.outputs(x, indices)
        logits = out.logits if out.token_logits is None else (out.logits + out.token_logits) / 2
        assert out.embedding is not None
        return (logits, out.embedding), [out.grids[index] for index in indices]

    def forward_head(self, x: tuple[Tensor, Tensor], pre_logits: bool = False) -> Tensor:
        return x[1] if pre_logits else x[0]

    def get_classifier(self) -> Any:
        return (self.student.head, self.student.head_dist) if self.student.config.distilled else self.student.head


def _config(teacher: Teacher, path: Path) -> students.ViTConfig:
    # JSON has lists only, a config tuples only.
    fields = {word: tuple(v) if isinstance(v, list) else v for word, v in _content(path)["student"].items()}
    size = {} if teacher.img_size is None else {"img_size": teacher.img_size}
    return students.ViTConfig().override(**fields | size)


def _content(path: Path) -> dict[str, Any]:
    return json.loads((path / "config.json").read_text(encoding="utf-8"))
