"""The report as a table in the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.markup import escape
from rich.table import Table

from distill.compare.runs import Row

COLUMNS: dict[str, Callable[[Row], str]] = {
    "role": lambda row: row.role,
    "model": lambda row: row.name,
    "top-1 %": lambda row: _share(row.top1, row.top1_interval),
    "top-5 %": lambda row: _share(row.top5, row.top5_interval),
    "agrees %": lambda row: _share(row.agreement),
    "KL": lambda row: "–" if row.kl is None else f"{row.kl:.3f}",
    "kept %": lambda row: _share(row.kept),
    "params": lambda row: f"{row.params / 1e6:.2f} M",
}

LEGEND = (
    "In brackets: 95 % interval. agrees: share of images on which a model decides as the teacher does. "
    "KL: from the teacher's probabilities to the model's, in nats. kept: share of the teacher's top-1."
)


WIDE = 90
"""Columns of a window that holds the whole table; a narrower one shows the columns of NARROW."""

NARROW = ("role", "model", "top-1 %", "agrees %", "kept %")


def table(rows: Sequence[Row], width: int) -> Table:
    """The comparison for a terminal of that many columns."""
    columns = COLUMNS if width >= WIDE else {name: COLUMNS[name] for name in NARROW}
    shown = Table(title=f"on the same {rows[0].images:,} validation images", title_justify="left", box=None)
    for name in columns:
        text = name in ("role", "model")
        shown.add_column(name, justify="left" if text else "right", overflow="fold", no_wrap=name != "model")
    for row in rows:
        # An interval goes under its number, so that a row fits a narrow window.
        shown.add_row(*(escape(cell(row).replace(" [", "\n[")) for cell in columns.values()))
    return shown


def markdown(rows: Sequence[Row]) -> str:
    """The comparison as a Markdown page."""
    lines = ["# Comparison", "", f"On the same {rows[0].images:,} validation images.", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for row in rows:
        # A name is a user's text: a bar or a tag in it must not become layout.
        cells = (cell(row).replace("|", "\\|").replace("<", "&lt;") for cell in COLUMNS.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", LEGEND, *_differences(rows)]) + "\n"


def _differences(rows: Sequence[Row]) -> list[str]:
    by_run = {row.run: row for row in rows}
    pairs = [(row, by_run[row.alone]) for row in rows if row.alone]
    return [
        f"\n{row.name} is {100 * (row.top1 - alone.top1):+.1f} points of top-1 from {alone.name}, "
        "the same student, data and budget without a teacher."
        for row, alone in pairs
        if row.top1 is not None and alone.top1 is not None
    ]


def closing_lines(rows: Sequence[Row]) -> list[str]:
    """What is said under the table."""
    return [line.strip() for line in _differences(rows)]


def _share(share: float | None, interval: tuple[float, float] | None = None) -> str:
    if share is None:
        return "–"
    bounds = f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else ""
    return f"{100 * share:.2f}{bounds}"
