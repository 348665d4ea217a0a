"""The table of the models: its columns, what a cell shows and what it is sorted by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distill.compare.page.words import NONE, bounds, count, p_value, percent, short

Model = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """text, a smaller text under it, and the value it is sorted by, None: last."""

    text: str
    under: str = ""
    value: float | None = None


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: its name, what it says in full, and its cells in the order of the models."""

    name: str
    title: str
    cells: list[Cell]


def columns(report: Mapping[str, Any]) -> list[Column]:
    """The columns in which at least one model has a figure."""
    made = [
        Column(name=name, title=title, cells=[cell(model) for model in report["models"]])
        for name, (title, cell) in _COLUMNS.items()
    ]
    return [column for column in made if any(cell.value is not None for cell in column.cells)]


def _share(name: str, digits: int = 2) -> Callable[[Model], Cell]:
    def cell(model: Model) -> Cell:
        value = model.get(name)
        return Cell(text=percent(value, digits), under=bounds(model.get(f"{name}_interval")), value=value)

    return cell


def _at(*path: str, show: Callable[[Any], str] = short) -> Callable[[Model], Cell]:
    def cell(model: Model) -> Cell:
        value = _found(model, *path)
        return Cell(text=NONE if value is None else show(value), value=value)

    return cell


def _ranged(*path: str) -> Callable[[Model], Cell]:
    def cell(model: Model) -> Cell:
        found = _found(model, *path)
        if found is None:
            return Cell(text=NONE)
        under = f"{short(found['low'])}–{short(found['high'])}"
        return Cell(text=short(found["median"]), under=under, value=found["median"])

    return cell


def _calibrated(figure: str, show: Callable[[Any], str]) -> Callable[[Model], Cell]:
    """The figure as the model is, and under it at T."""

    def cell(model: Model) -> Cell:
        before, after = (_found(model, "calibration", when, figure) for when in ("before", "after"))
        under = "" if after is None else f"{show(after)} at T"
        return Cell(text=NONE if before is None else show(before), under=under, value=before)

    return cell


def _mcnemar(model: Model) -> Cell:
    found = model.get("mcnemar")
    if found is None:
        return Cell(text=NONE)
    return Cell(text=p_value(found["p"]), under=f"{found['only_reference']} : {found['only_this']}", value=found["p"])


def _found(model: Model, *path: str) -> Any:
    value: Any = model
    for name in path:
        value = value.get(name) if value else None
    return value


_COLUMNS: dict[str, tuple[str, Callable[[Model], Cell]]] = {
    "top-1": ("Share of images whose class it names first, with the 95 % interval", _share("top1")),
    "top-5": ("Share of images whose class is among its first five, with the 95 % interval", _share("top5")),
    "kept": ("Its top-1 as a share of the reference's", _share("kept", 1)),
    "agrees": ("Share of images on which it decides as the reference does", _share("agreement")),
    "p": (
        "McNemar's test against the reference; under it, images that only the reference and only this gets right",
        _mcnemar,
    ),
    "KL": ("From the reference's probabilities to its own, in nats", _at("kl")),
    "rank ρ": ("Spearman's rank correlation of its logits with the reference's", _at("fidelity", "rank_correlation")),
    "NLL": (
        "Mean negative log-likelihood of the labels, in nats; under it, after temperature scaling",
        _calibrated("nll", short),
    ),
    "Brier": ("Brier score over all classes; under it, after temperature scaling", _calibrated("brier", short)),
    "ECE": ("Expected calibration error; under it, after temperature scaling", _calibrated("ece", percent)),
    "T": ("The temperature that the logits are divided by", _at("calibration", "temperature")),
    "params": ("Parameters", _at("params", show=count)),
    "MACs": ("Multiply-accumulates for one image", _at("cost", "macs", show=count)),
    "file": ("Size of its weights on disk", _at("cost", "file_bytes", show=lambda size: count(size, "B"))),
    "ms": ("Latency of one image in milliseconds: median, and range over rounds", _ranged("cost", "latency_ms")),
    "images/s": ("Throughput in batches of 64: median, and range over rounds", _ranged("cost", "throughput")),
    "memory": (
        "The most memory that a forward of 64 images holds, beside weights and input",
        _at("cost", "peak_bytes", show=lambda size: count(size, "B")),
    ),
}
