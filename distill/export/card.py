"""The model card of a student on the Hugging Face hub: who taught it what, how right it is, how it is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.export.paths import without_paths
from distill.export.source import Source

PROJECT = "distill-vision"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the card says beside the student itself.

    recipe, report: recipe.json and report.json of the run, None where there is none. teacher_license: as timm states
    it. repo: ORG/NAME on the hub, None where it is not known yet.
    """

    recipe: dict[str, Any] | None
    report: dict[str, Any] | None
    license: str | None
    license_name: str | None
    license_link: str | None
    teacher_license: str | None
    datasets: tuple[str, ...]
    repo: str | None


def card(source: Source, facts: Facts) -> str:
    """README.md: YAML front matter, then Markdown. Names are escaped, and no path of this machine is in it."""
    recipe = without_paths(facts.recipe) if facts.recipe else None
    rows = without_paths(facts.report["models"]) if facts.report else []
    names = teachers(recipe)
    parts = [
        f"---\n{_front_matter(source, facts, names, own_row(rows, source.name))}\n---",
        f"# {text(source.name)}",
        _introduction(source, names),
        _figures(rows),
        _use(facts.repo or "ORG/NAME", "L" if source.preparation.in_chans == 1 else "RGB"),
        _preparation(source),
        _training(recipe, names, facts),
        _license(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def teachers(recipe: dict[str, Any] | None) -> list[str]:
    """The names of a recipe's teachers."""
    teacher = (recipe or {}).get("teacher")
    if not teacher:
        return []
    return [str(one.get("name") or one["type"].rpartition(".")[2]) for one in teacher.get("members") or [teacher]]


def own_row(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The row of the report that is the student's: that of its name, or the only one that is no teacher's."""
    students = [row for row in rows if row["role"] != "teacher"]
    return next((row for row in students if row["name"] == name), students[0] if len(students) == 1 else None)


def _front_matter(source: Source, facts: Facts, names: Sequence[str], row: dict[str, Any] | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    dataset = facts.datasets[0] if facts.datasets else "images"
    measured = [("accuracy", "top-1 accuracy", "top1"), ("accuracy", "top-5 accuracy", "top5")]
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split="validation",
            metric_type=kind,
            metric_name=name,
            metric_value=round(row[key], 4),
        )
        for kind, name, key in measured
        if row and row.get(key) is not None
    ]
    data = ModelCardData(
        license=facts.license,
        license_name=facts.license_name,
        license_link=facts.license_link,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "vision-transformer", "knowledge-distillation"],
        datasets=list(facts.datasets) or None,
        metrics=["accuracy"] if results else None,
        model_name=source.name if results else None,
        eval_results=results or None,
        # No base_model: on the hub that says that the weights were made from those of the other model.
        teacher=names or None,
    )
    return data.to_yaml()


def _introduction(source: Source, names: Sequence[str]) -> str:
    config = source.student.config
    (height, width), told = config.img_hw, source.preparation
    params = sum(weight.numel() for weight in source.student.parameters())
    taught = f", taught by {_and(map(text, names))}" if names else ""
    if not told.num_classes:
        answers = "It has no head and answers with its embedding."
    else:
        answers = f"Its {told.num_classes:,} classes" + _classes(told.label_names)
    return (
        f"A Vision Transformer ({config.depth} blocks × {config.embed_dim}, {params / 1e6:.2f} M parameters) for "
        f"{'grey' if config.in_chans == 1 else 'colour'} images of {height}×{width} px{taught}. {answers}"
    )


def _classes(names: Sequence[str], most: int = 20) -> str:
    if not names:
        return " have no names in config.json."
    more = f", … {len(names) - most:,} more in config.json" if len(names) > most else ""
    return f": {', '.join(map(text, names[:most]))}{more}."


def _figures(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    lines = [
        f"On the same {rows[0]['images']:,} validation images; in brackets 95 % intervals:",
        "",
        "| role | model | top-1 % | top-5 % | agrees with the teacher % | of the teacher's top-1 % | parameters |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [
            text(row["role"]),
            text(row["name"]),
            _share(row.get("top1"), row.get("top1_interval")),
            _share(row.get("top5"), row.get("top5_interval")),
            _share(row.get("agreement")),
            _share(row.get("kept")),
            f"{row['params'] / 1e6:.2f} M",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(["## Figures", "", *lines])


def _use(repo: str, mode: str) -> str:
    return f"""## Use

With [timm](https://github.com/huggingface/pytorch-image-models):

```python
import timm

model = timm.create_model("hf-hub:{repo}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
logits = model(transform(image).unsqueeze(0))  # image: a PIL image of mode {mode}
```

With {PROJECT}, as what it was trained as:

```python
import students
from huggingface_hub import snapshot_download

model = students.load(snapshot_download("{repo}"))
```"""


def _preparation(source: Source) -> str:
    told = source.preparation
    first = f"cropped to {_size(told.view_size)} first, then resized to" if told.view_size else "cropped to"
    return (
        "## Images\n\n"
        f"Resized ({text(told.interpolation)}) so that a centre crop keeps {100 * told.crop_pct:g} % of the shorter "
        f"side, {first} {_size(told.img_size)}, scaled to 0..1, normalised with mean {_numbers(told.mean)} "
        f"and standard deviation {_numbers(told.std)}."
    )


def _training(recipe: dict[str, Any] | None, names: Sequence[str], facts: Facts) -> str:
    if recipe is None:
        return ""
    optim = recipe.get("optim", {})
    lines = [
        "## Training",
        "",
        f"- teacher: {_and(map(text, names)) or 'none, labels alone'}",
        f"- data: {text(recipe['data']['type'].rpartition('.')[2])} {_and(map(text, facts.datasets))}".rstrip(),
        f"- {optim.get('epochs')} epochs, batch size {optim.get('batch_size')}, AdamW at {optim.get('lr')}, "
        f"seed {recipe.get('seed')}",
        "",
        "| loss | weight | of kind |",
        "| --- | --- | --- |",
    ]
    for name, loss in recipe.get("losses", {}).items():
        lines.append(f"| {text(name)} | {loss.get('weight')} | {text(loss['type'].rpartition('.')[2])} |")
    whole = json.dumps(recipe, indent=2, ensure_ascii=False)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", whole)), default=0))
    lines += ["", "The whole recipe, without the paths of the machine it ran on:", "", f"{fence}json", whole, fence]
    return "\n".join(lines)


def _license(facts: Facts) -> str:
    own = text(facts.license_name or facts.license or "not stated; ask before you use it")
    link = f" ({text(facts.license_link)})" if facts.license_link else ""
    lines = [f"## Licence\n\n- this student: {own}{link}"]
    if facts.recipe and facts.recipe.get("teacher"):
        lines.append(f"- its teacher's weights: {text(facts.teacher_license or 'see where they come from')}")
    lines.append("- the images: see where they come from")
    return "\n".join(lines)


def text(value: object) -> str:
    """A user's text as Markdown that shows it: on one line, no character of it being layout."""
    line = " ".join(str(value).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#|~!])", r"\\\1", line)


def _share(share: float | None, interval: Sequence[float] | None = None) -> str:
    if share is None:
        return "–"
    return f"{100 * share:.2f}" + (f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else "")


def _size(size: tuple[int, int] | None) -> str:
    return "×".join(map(str, size or ())) + " px"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _and(names: Any) -> str:
    *first, last = list(names) or [""]
    return f"{', '.join(first)} and {last}" if first else last
