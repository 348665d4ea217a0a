"""The outcome in one sentence, and what stands behind it in a second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.compare.page.words import bounds, listed, p_value, percent, points, times

Model = Mapping[str, Any]


def headline(report: Mapping[str, Any]) -> str:
    """What a reader wants to know first."""
    models, reference = report["models"], _reference(report)
    student = _student(report)
    if student is None or reference is None:
        return _of_any_models(models)
    name, teacher = student["name"], _called(reference)
    if student.get("kept") is not None:
        return f"{name} keeps {percent(student['kept'])} of the accuracy of {teacher}"
    if student.get("agreement") is not None:
        return f"{name} decides as {teacher} on {percent(student['agreement'])} of the images"
    return f"{name} beside {teacher}"


def facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Figures and what they are of, for the line under the headline: ('+8.0 points', 'over …')."""
    reference, student = _reference(report), _student(report)
    if student is None:
        return []
    found = []
    if student.get("top1") is not None:
        found.append((percent(student["top1"]), f"top-1, 95 % interval {bounds(student.get('top1_interval'))}"))
    alone = next((m for m in report["models"] if student.get("alone") and m.get("run") == student["alone"]), None)
    if alone and alone.get("top1") is not None and student.get("top1") is not None:
        gain = points(student["top1"] - alone["top1"])
        found.append((f"{gain} points", "over the same student without a teacher, at the same budget"))
    if reference is None:
        return found
    if student.get("top1") is not None and reference.get("top1") is not None:
        p = (student.get("mcnemar") or {}).get("p")
        tested = "" if p is None else f", McNemar p {p_value(p)}" if p < 0.001 else f", McNemar p = {p_value(p)}"
        found.append((f"{points(student['top1'] - reference['top1'])} points", f"from {reference['name']}{tested}"))
    return found + _cheaper(student, reference)


def _cheaper(student: Model, reference: Model) -> list[tuple[str, str]]:
    found = []
    if student.get("params") and reference.get("params"):
        ratio = reference["params"] / student["params"]
        found.append((times(max(ratio, 1 / ratio)), f"{'fewer' if ratio >= 1 else 'more'} parameters"))
    own, its = ((model.get("cost") or {}).get("throughput") for model in (student, reference))
    if own and its:
        ratio = own["median"] / its["median"]
        device = (student.get("cost") or {}).get("device") or "this machine"
        where = "this CPU" if device == "cpu" else device
        found.append((times(max(ratio, 1 / ratio)), f"{'faster' if ratio >= 1 else 'slower'} on {where}"))
    return found


def _of_any_models(models: list[Model]) -> str:
    scored = [model for model in models if model.get("top1") is not None]
    if not scored:
        return f"{listed([model['name'] for model in models])} on the same images"
    most = max(model["top1"] for model in scored)
    best = [model["name"] for model in scored if model["top1"] == most]
    if len(models) == 1:
        return f"{best[0]} is right on {percent(most)} of the images"
    if len(best) == len(models):
        return f"Each of the {len(models)} models is right on {percent(most)} of the images"
    verb = "is" if len(best) == 1 else "are"
    return f"{listed(best)} {verb} right most often of {len(models)} models: on {percent(most)} of the images"


def _reference(report: Mapping[str, Any]) -> Model | None:
    return next((model for model in report["models"] if model["key"] == report.get("reference")), None)


def _student(report: Mapping[str, Any]) -> Model | None:
    """The first student that is not itself the reference."""
    return next((m for m in report["models"] if m["role"] == "student" and m["key"] != report.get("reference")), None)


def _called(reference: Model) -> str:
    return f"its teacher {reference['name']}" if reference["role"] == "teacher" else reference["name"]
