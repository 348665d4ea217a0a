"""The plots of trust: how right a model is when it is sure, and how right on images made worse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from distill.compare.page.plots import Plot
from distill.compare.page.svg import BOTTOM, LEFT, RIGHT, TOP, Axis, Frame, Point, mark, style, tag
from distill.compare.page.words import percent, short

Report = Mapping[str, Any]


def reliability(report: Report) -> list[Plot]:
    """Accuracy against confidence of every calibrated model, before and after temperature scaling."""
    plots = []
    for number, model in enumerate(report["models"]):
        found = model.get("calibration")
        if not found or not found.get("before"):
            continue
        frame = Frame(
            x=Axis(low=0, high=100, start=LEFT, end=LEFT + 230),
            y=Axis(low=0, high=100, start=TOP + 230, end=TOP),
            x_label="confidence, %",
            y_label="accuracy, %",
            height=TOP + 230 + BOTTOM,
        )
        marks = [frame.line([(0, 0), (100, 100)], number, title="calibrated", class_="ideal")]
        for when, how in (("after", "after"), ("before", "before")):
            if found.get(when):
                marks.append(_reliability_line(frame, number, found[when], how))
        marks += _calibration_note(found)
        label = f"Reliability of {model['name']}"
        plots.append(Plot(title=model["name"], svg=frame.draw(label, *marks), series=(number,)))
    return plots


def _reliability_line(frame: Frame, number: int, found: Mapping[str, Any], how: str) -> Markup:
    bins = [each for each in found["bins"] if each["images"]]
    largest = max((each["images"] for each in bins), default=1)
    points: list[Point] = [(100 * each["confidence"], 100 * each["accuracy"]) for each in bins]
    # A bin of one image is right or wrong, at 0 or 100 %: a line through it would be of noise.
    enough = min(sum(each["images"] for each in bins) / 200, 10)
    joined = [point for point, each in zip(points, bins, strict=True) if each["images"] >= enough]
    parts = [frame.line(joined, number, title=how)] if joined else []
    for point, each in zip(points, bins, strict=True):
        x, y = frame.at(point)
        title = f"{how}: {each['images']:,} images, confidence {point[0]:.1f} %, accuracy {point[1]:.1f} %"
        size = 1.8 + 4.2 * (each["images"] / largest) ** 0.5
        parts.append(
            tag("g", tag("title", title), tag("circle", cx=x, cy=y, r=size, class_="mark"), class_=style(number))
        )
    return tag("g", *parts, class_=how)


def _calibration_note(found: Mapping[str, Any]) -> list[Markup]:
    x, groups = LEFT + 242, [("before", found["before"])]
    if found.get("after"):
        groups.append((f"at T {short(found.get('temperature'))}", found["after"]))
    parts = []
    for number, (name, figures) in enumerate(groups):
        y = TOP + 14 + 82 * number
        said = (f"ECE {percent(figures['ece'])}", f"NLL {short(figures['nll'])}", f"Brier {short(figures['brier'])}")
        parts.append(tag("text", name, x=x, y=y, class_="name"))
        parts += [tag("text", line, x=x, y=y + 15 * row, class_="strong") for row, line in enumerate(said, start=1)]
    return parts


def robustness(report: Report) -> list[Plot]:
    """Top-1 under each corruption at strengths 0 (none) to 5, of every model that was measured."""
    models = [(number, model) for number, model in enumerate(report["models"]) if model.get("robustness")]
    names = list(dict.fromkeys(name for _, model in models for name in model["robustness"]))
    plots = []
    for name in names:
        lines = {
            number: [model["uncorrupted_top1"], *model["robustness"][name]]
            for number, model in models
            if model["robustness"].get(name) and model.get("uncorrupted_top1") is not None
        }
        if not lines:
            continue
        frame = Frame(
            x=Axis(low=0, high=5, start=LEFT, end=RIGHT),
            y=Axis(low=0, high=100, start=180 - BOTTOM, end=TOP),
            x_label="strength",
            y_label="top-1, %",
            height=180,
        )
        marks = []
        for number, line in lines.items():
            points = [(float(strength), 100 * value) for strength, value in enumerate(line)]
            marks.append(frame.line(points, number, title=report["models"][number]["name"]))
            marks += [mark(*frame.at(point), number, f"{point[1]:.1f} %", size=3.2) for point in points]
        title = name.replace("_", " ")
        plots.append(Plot(title=title, svg=frame.draw(f"Top-1 under {title}", *marks), series=tuple(lines)))
    return plots
