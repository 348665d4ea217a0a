"""How an image is prepared for a model, in timm's words, as its config.json or timm itself says it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.views import Transform, plain_transform

if TYPE_CHECKING:
    from students.preprocess import Preprocess


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """An image is made grey or colour, resized, cropped, scaled to 0..1 and normalised.

    img_size: (height, width) that the model takes. view_size: what the image is cropped to first, where that differs.
    crop_pct: the share of the resized image that the crop keeps. mean, std: one number a channel, in 0..1.
    num_classes: the model's logits; 0 for one without a head. label_names: one a class, or none.
    """

    img_size: tuple[int, int]
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    interpolation: str
    num_classes: int
    crop_mode: str = "center"
    view_size: tuple[int, int] | None = None
    label_names: tuple[str, ...] = ()

    def transform(self) -> Transform:
        """Image -> its view [C, H, W], uint8: the one that validation in training uses."""
        return plain_transform(
            self.view_size or self.img_size,
            self.in_chans,
            crop_pct=self.crop_pct,
            interpolation=self.interpolation,
            crop_mode=self.crop_mode,
        )

    def preprocess(self) -> Preprocess:
        """Views [B, C, h, w] -> the model's input [B, C, H, W]."""
        from students.preprocess import Preprocess

        return Preprocess(self.img_size, self.mean, self.std)

    def metadata(self) -> dict[str, str]:
        """Every field as JSON text, which ONNX keeps in its metadata_props and TorchScript among its extra files."""
        return {name: json.dumps(value, ensure_ascii=False) for name, value in asdict(self).items()}


def of_model(name: str) -> Preparation:
    """As a folder's config.json says it, and timm of a model of its own. ValueError if there is no such model.

    name: as that of a `Teacher`: a folder, "local-dir:FOLDER", "hf-hub:ORG/NAME" or a timm name.
    """
    from teachers import Teacher, own_student, source

    folder, teacher = Path(name.removeprefix("local-dir:")), Teacher(name=name)
    content = read_config(folder) if folder.is_dir() else {}
    cfg: dict[str, Any] = content.get("pretrained_cfg") or {}
    if own_student.folder(teacher):
        import students

        config = students.ViTConfig().override(**_tuples(content["student"]))
        img_size, mean, std, classes = config.img_hw, config.input_mean, config.input_std, config.known_classes()
    else:
        plan = source.plan(teacher)
        cfg = plan.skeleton.pretrained_cfg
        img_size, (mean, std), classes = plan.img_size, source.statistics(plan), plan.skeleton.num_classes
    names = cfg.get("label_names") or ()
    if len(mean) not in (1, 3):
        raise ValueError(
            f"'{folder}' takes {len(mean)} channels but images have 1 or 3; give the model such images in code"
        )
    if names and len(names) != classes:
        raise ValueError(
            f"'{folder}' names {len(names)} classes but has {classes}; mend label_names in its config.json"
        )
    return Preparation(
        img_size=img_size,
        in_chans=len(mean),
        mean=mean,
        std=std,
        crop_pct=cfg.get("crop_pct") or 0.875,
        interpolation=cfg.get("interpolation") or "bicubic",
        crop_mode=cfg.get("crop_mode") or "center",
        num_classes=classes,
        view_size=tuple(content["view_size"]) if "view_size" in content else None,
        label_names=tuple(names),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model's folder. ValueError if it is missing or no JSON object."""
    file = folder / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{folder} holds no model (it has no config.json); name a run folder, a student's or a timm folder, "
            "or an .onnx file"
        ) from None
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); save the model again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no model's configuration; save the model again")
    return content


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {word: tuple(value) if isinstance(value, list) else value for word, value in fields.items()}
