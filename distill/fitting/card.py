"""The card of a new teacher: what it is, how it was made, how right and how calibrated it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from distill.evaluate import Score, interval
from distill.fitting.task import Task
from teachers import source


def card(
    task: Task,
    plan: source.Plan,
    how: Sequence[str],
    temperature: float,
    scores: Mapping[str, Score],
    *,
    command: str,
) -> str:
    """README.md of the folder, as model hubs read it. scores: "uncalibrated" and "calibrated"."""
    before, after = scores["uncalibrated"], scores["calibrated"]
    height, width = plan.img_size
    license_name = plan.skeleton.pretrained_cfg.get("license")
    lines = [
        "---",
        "library_name: timm",
        *([f"license: {license_name}"] if license_name else []),
        "tags:",
        "- image-classification",
        "- timm",
        "---",
        f"# {task.teacher.name}, of {len(task.classes)} classes",
        "",
        "```python",
        'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()',
        "```",
        "",
        f"- from: `{task.teacher.name}` ({plan.weights_source}), at {height}×{width} px",
        *[f"- {line}" for line in how],
        f"- data: {_kind(task)}, fingerprint `{task.recipe.data.fingerprint()}`: "
        f"{(~task.held_out).sum():,} training images, {task.held_out.sum():,} more held out of them, "
        f"{len(task.val):,} for validation",
        f"- temperature: {temperature:.4f}, already in the weights; it was chosen on the plain views of the held-out "
        "images, which the weights were not fitted on",
        "",
        f"On the {after.labelled:,} validation images, which nothing was chosen on:",
        "",
        "| | before the temperature | as it is |",
        "| --- | --- | --- |",
        f"| top-1 % (95 % interval) | {_share(before.top1, before)} | {_share(after.top1, after)} |",
    ]
    if after.top5 is not None:
        lines.append(f"| top-5 % (95 % interval) | {_share(before.top5, before)} | {_share(after.top5, after)} |")
    lines += [
        f"| negative log-likelihood, nats | {before.nll:.4f} | {after.nll:.4f} |",
        f"| expected calibration error, 15 bins, % | {100 * (before.ece or 0):.2f} | {100 * (after.ece or 0):.2f} |",
        "",
        "Made by:",
        "",
        "```",
        command,
        "```",
        "",
    ]
    return "\n".join(lines)


def _share(share: float | None, result: Score) -> str:
    if share is None:
        return "–"
    low, high = interval(share, result.labelled)
    return f"{100 * share:.2f} [{100 * low:.1f}, {100 * high:.1f}]"


def _kind(task: Task) -> str:
    data = task.recipe.data
    place = getattr(data, "root", None) or getattr(data, "path", None)
    return type(data).__name__ + (f" `{Path(place).name}`" if place else "")
