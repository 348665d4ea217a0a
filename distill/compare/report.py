"""The report as tables in the terminal: what matters first, and as much as the window holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from distill.compare.cells import ACCURACY, CALIBRATION, COST, NONE, Column, Row, robustness

WIDE = 100
"""Columns of a window that holds whole tables; a narrower one shows fewer columns."""

NARROW = ("role", "model", "top-1 %", "agrees %", "kept %")
NARROW_CALIBRATION = ("model", "NLL", "ECE %", "T", "ECE % at T")
NARROW_COST = ("model", "MACs", "ms at batch 1", "images/s at 64")
TEXT = ("role", "model")


def tables(report: Mapping[str, Any], width: int) -> list[Table]:
    """The comparison for a terminal of that many columns; a table of what was not measured is left out."""
    rows, data = report["models"], report["data"]
    wide = width >= WIDE
    shown = [_table(f"on the same {data['images']:,} images", _columns(ACCURACY, NARROW, wide), rows)]
    if any(row["calibration"] for row in rows):
        shown.append(_table("calibration", _columns(CALIBRATION, NARROW_CALIBRATION, wide), rows))
    if any(row["cost"] for row in rows):
        cost = next(row["cost"] for row in rows if row["cost"])
        title = f"cost on {cost['device']}, {cost['threads']} CPU threads: median [lowest, highest]"
        shown.append(_table(title, _columns(COST, NARROW_COST, wide), rows))
    if rows[0]["robustness"]:
        title = f"top-1 % under corruptions, mean of 5 strengths, on {data['corrupted']:,} images"
        every = robustness(rows[0]["robustness"])
        if wide:
            shown.append(_table(title, every, rows))
        else:  # a row for each corruption, so that names of models are what must fit
            shown.append(_turned(title, every, rows))
    return shown


def left_out(report: Mapping[str, Any], width: int) -> list[str]:
    """The columns with figures that `tables` leaves out of a window of that many columns."""
    if width >= WIDE:
        return []
    every = (
        (ACCURACY, NARROW, "key"),
        (CALIBRATION, NARROW_CALIBRATION, "calibration"),
        (COST, NARROW_COST, "cost"),
    )
    return [
        name
        for columns, shown, of in every
        for name, cell in columns.items()
        if name not in shown and any(row[of] and cell(row) != NONE for row in report["models"])
    ]


def closing_lines(report: Mapping[str, Any]) -> list[str]:
    """What is said under the tables: how far each student is from the same one without a teacher."""
    by_run = {row["run"]: row for row in report["models"] if row["run"]}
    lines = []
    for row in report["models"]:
        alone = by_run.get(row["alone"]) if row["alone"] else None
        if alone is not None and row["top1"] is not None and alone["top1"] is not None:
            lines.append(
                f"{row['key']} is {100 * (row['top1'] - alone['top1']):+.1f} points of top-1 from {alone['key']}, "
                "the same student, data and budget without a teacher."
            )
    return lines


def _columns(every: Mapping[str, Column], narrow: Sequence[str], wide: bool) -> Mapping[str, Column]:
    return every if wide else {name: every[name] for name in narrow}


def _table(title: str, columns: Mapping[str, Column], rows: Sequence[Row]) -> Table:
    shown = Table(title=escape(title), title_justify="left", box=None)
    for name in columns:
        text = name in TEXT
        shown.add_column(
            escape(name), justify="left" if text else "right", overflow="fold", no_wrap=name != "model", min_width=4
        )
    for row in rows:
        shown.add_row(*(escape(_stacked(name, cell(row))) for name, cell in columns.items()))
    return shown


def _stacked(column: str, value: str) -> str:
    # An interval goes under its number, so that a row fits a narrow window.
    return value if column in TEXT else value.replace(" [", "\n[")


def _turned(title: str, columns: Mapping[str, Column], rows: Sequence[Row]) -> Table:
    shown = Table(title=escape(title), title_justify="left", box=None)
    shown.add_column("corruption")
    for row in rows:
        shown.add_column(escape(row["key"]), justify="right", overflow="fold")
    for name, cell in columns.items():
        if name != "model":
            shown.add_row(escape(name), *(escape(cell(row)) for row in rows))
    return shown
