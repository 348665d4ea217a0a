"""The report as a Markdown page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from distill.compare.cells import ACCURACY, CALIBRATION, COST, Column, Row, caveat, legend, robustness, share
from distill.compare.report import closing_lines

MOST_CLASSES = 20


def markdown(report: Mapping[str, Any]) -> str:
    """A page with what the terminal shows, and the classes on which most was lost."""
    rows, data = report["models"], report["data"]
    lines = ["# Comparison", "", f"On the same {data['images']:,} images of {text(data['name'])}.", ""]
    lines += [*_table(ACCURACY, rows), "", text(" ".join(legend(report)))]
    for line in closing_lines(report):
        lines += ["", text(line)]
    if any(row["calibration"] for row in rows):
        lines += ["", "## Calibration", "", *_table(CALIBRATION, rows), ""]
        lines += [
            "T: the temperature that each half of the images is divided by, fitted on the other half, so that nothing "
            "is measured on what it was fitted on. ECE: 15 bins."
        ]
        if note := caveat(report):
            lines += ["", f"**Few images.** {note}"]
    if any(row["cost"] for row in rows):
        cost = next(row["cost"] for row in rows if row["cost"])
        lines += ["", "## Cost", "", *_table(COST, rows), ""]
        lines += [text(f"On {cost['device']}, {cost['threads']} CPU threads. Median and range of interleaved rounds.")]
    if rows[0]["robustness"]:
        lines += ["", "## Corruptions", "", *_table(robustness(rows[0]["robustness"]), rows), ""]
        lines += [f"Top-1 % on {data['corrupted']:,} images, mean of five strengths."]
    lines += _classes(report)
    return "\n".join(lines) + "\n"


def text(value: str) -> str:
    """A user's text as Markdown that shows it: no character of it is layout."""
    # Inside a table, line breaks and bars would end a cell; elsewhere these would begin emphasis, links or tags.
    plain = " ".join(value.split())
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", plain)


def _table(columns: Mapping[str, Column], rows: Sequence[Row]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(_cell(name, cell(row)) for name, cell in columns.items()) + " |")
    return lines


def _cell(column: str, value: str) -> str:
    return text(value) if column in ("role", "model") else value


def _classes(report: Mapping[str, Any]) -> list[str]:
    """The classes of most images lost against the reference, of each model."""
    reference = next((row for row in report["models"] if row["key"] == report["reference"]), None)
    lines: list[str] = []
    for row in report["models"] if reference else ():
        if row is reference or not report["data"]["labelled"]:
            continue
        assert reference is not None
        pairs = list(zip(report["data"]["classes"], row["per_class"], reference["per_class"], strict=True))
        lost = [(theirs["correct"] - own["correct"], name, own, theirs) for name, own, theirs in pairs if own["images"]]
        lost = sorted(lost, key=lambda entry: -entry[0])[:MOST_CLASSES]
        lines += ["", f"## {text(row['key'])} by class, what was lost first", ""]
        lines += [f"| class | images | top-1 % | {text(reference['key'])} |", "| --- | --- | --- | --- |"]
        for _, name, own, theirs in lost:
            n = own["images"]
            shares = share(own["correct"] / n, own["interval"]), share(theirs["correct"] / n, theirs["interval"])
            lines.append(f"| {text(name)} | {n} | {' | '.join(shares)} |")
    return lines
