"""The plots of accuracy: against cost, over training, in the table; and of the loss terms over training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from distill.compare.page.svg import (
    LEFT,
    RIGHT,
    Axis,
    Frame,
    across,
    drawing,
    mark,
    style,
    tag,
    upwards,
)
from distill.compare.page.words import count, percent, short

Report = Mapping[str, Any]
Model = Mapping[str, Any]
TOTAL = "loss"
"""The series of the terms' weighted sum; the others are terms as they are."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawing, its title, and the series in it, for the legend."""

    title: str
    svg: Markup
    series: tuple[int, ...] = ()


def cost(report: Report) -> Plot | None:
    """Top-1 with its interval against throughput, or against parameters where not all were timed."""
    scored = [(number, model) for number, model in enumerate(report["models"]) if model.get("top1") is not None]
    timed = [(number, model) for number, model in scored if (model.get("cost") or {}).get("throughput")]
    if len(scored) < 2:
        return None
    by_speed = len(timed) == len(scored)
    places = {n: (m["cost"]["throughput"]["median"] if by_speed else m["params"]) for n, m in scored}
    if min(places.values()) <= 0:
        return None
    ends = [end for _, model in scored for end in model.get("top1_interval") or [model["top1"]]]
    frame = Frame(
        x=across(list(places.values()), log=True),
        y=upwards([100 * end for end in ends], least=4, top=100),
        x_label="images/s →" if by_speed else "← parameters",
        y_label="top-1, %",
    )
    if not by_speed:  # so that better is to the upper right, as with speed
        frame = Frame(
            x=Axis(low=frame.x.low, high=frame.x.high, start=RIGHT, end=LEFT, log=True),
            y=frame.y,
            x_label="fewer parameters →",
            y_label="top-1, %",
            x_format=_round_count,
        )
    marks = [_with_interval(frame, number, model, places[number], by_speed) for number, model in scored]
    axis = "throughput" if by_speed else "the number of parameters"
    label = f"Top-1 against {axis} of {len(scored)} models"
    return Plot(title=f"Accuracy against {axis}", svg=frame.draw(label, *marks), series=tuple(places))


def _with_interval(frame: Frame, number: int, model: Model, place: float, by_speed: bool) -> Markup:
    x, y = frame.at((place, 100 * model["top1"]))
    low, high = model.get("top1_interval") or (model["top1"],) * 2
    bar = tag(
        "line", x1=x, x2=x, y1=frame.y.at(100 * low), y2=frame.y.at(min(100 * high, frame.y.high)), class_="interval"
    )
    unit = f"{short(place)} images/s" if by_speed else f"{count(place)} parameters"
    title = f"{model['name']}: top-1 {percent(model['top1'], 2)}, {unit}"
    return Markup().join([tag("g", bar, class_=style(number)), mark(x, y, number, title)])


def _round_count(number: float) -> str:
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g} {name}"
    return f"{number:g}"


def curves(report: Report) -> Plot | None:
    """Validation top-1 over training, of every run, with a line at the reference's; None without runs."""
    runs = _runs(report)
    lines = {number: run["val"] for number, run in runs if run.get("val")}
    if not lines:
        return None
    reference = _numbered_reference(report)
    points = [point for line in lines.values() for point in line]
    heights = [100 * value for _, value in points]
    level = None
    if reference and reference[1].get("top1") is not None and reference[0] not in lines:
        level = 100 * reference[1]["top1"]
        heights.append(level)
    frame = Frame(
        x=Axis(low=0, high=max(x for x, _ in points) or 1, start=LEFT, end=RIGHT),
        y=upwards(heights, least=4, top=100),
        x_label="epoch",
        y_label="validation top-1, %",
    )
    marks = []
    if reference and level is not None:
        ends = [(frame.x.low, level), (frame.x.high, level)]
        title = f"{reference[1]['name']}: {level:.2f} %"
        marks.append(frame.line(ends, reference[0], title=title, class_="level"))
    for number, line in lines.items():
        name = report["models"][number]["name"]
        scaled = [(x, 100 * value) for x, value in line]
        marks.append(frame.line(scaled, number, title=name))
        if len(line) <= 24:
            marks += [mark(*frame.at(point), number, f"{name}: {point[1]:.2f} %", size=3.4) for point in scaled]
    series = (*((reference[0],) if reference and level is not None else ()), *lines)
    return Plot(title="Training", svg=frame.draw("Validation top-1 over training", *marks), series=series)


def losses(report: Report) -> list[Plot]:
    """Each loss term over the steps, of every run that has it; logarithmic where a term spans more than 20 times."""
    runs = _runs(report)
    terms = list(dict.fromkeys(term for _, run in runs for term in run.get("losses") or {}))
    plots = []
    for term in terms:
        lines = {
            number: run["losses"][term] for number, run in runs if len((run.get("losses") or {}).get(term, ())) > 1
        }
        if not lines:
            continue
        values = [value for line in lines.values() for _, value in line]
        log = min(values) > 0 and max(values) > 20 * min(values)
        frame = Frame(
            x=Axis(low=0, high=max(x for line in lines.values() for x, _ in line) or 1, start=LEFT, end=RIGHT),
            y=upwards(values, log=log, height=180),
            x_label="step",
            y_label=("weighted sum" if term == TOTAL else "loss, unweighted") + ", log scale" * log,
            height=180,
        )
        marks = [frame.line(line, n, title=f"{report['models'][n]['name']}: {term}") for n, line in lines.items()]
        plots.append(Plot(title=term, svg=frame.draw(f"Loss term {term} over training", *marks), series=tuple(lines)))
    return plots


def forest(model: Model, number: int, low: float, high: float) -> Markup:
    """A model's top-1 and interval on a small line of their own, on an axis low..high shared by the table."""
    axis = Axis(low=low, high=high, start=6, end=114)
    ends = model.get("top1_interval") or (model["top1"],) * 2
    bar = tag("line", x1=axis.at(ends[0]), x2=axis.at(ends[1]), y1=9, y2=9, class_="interval")
    dot = mark(axis.at(model["top1"]), 9, number, "", size=4)
    label = f"{percent(model['top1'])}, between {percent(ends[0])} and {percent(ends[1])}"
    return drawing(120, 18, label, tag("g", bar, class_=style(number)), dot, class_="forest")


def _runs(report: Report) -> list[tuple[int, Mapping[str, Any]]]:
    """The training curves of the models that have some, with the models' numbers."""
    curves: Mapping[str, Any] = report.get("curves") or {}
    return [(n, curves[model["run"]]) for n, model in enumerate(report["models"]) if model.get("run") in curves]


def _numbered_reference(report: Report) -> tuple[int, Model] | None:
    return next(((n, m) for n, m in enumerate(report["models"]) if m["key"] == report.get("reference")), None)
