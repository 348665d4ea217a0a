"""Tables of numbers as colours: who confuses what with what, and which layers are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from distill.compare.page.svg import drawing, style, tag
from distill.compare.page.words import short

PAIRS = 5
FEW = 12
"""Classes that are drawn whole, with the number in every cell."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A model's confusion with the reference: the drawing, its width in pixels, and the most frequent differences.

    shown: how many of `classes` classes are drawn. pairs: (the reference's class, the model's, images).
    """

    number: int
    svg: Markup
    width_px: int
    shown: int
    classes: int
    pairs: list[tuple[str, str, int]]


def confusion(report: Mapping[str, Any]) -> list[Confusion]:
    """For every model but the reference; empty where it was not counted."""
    names = report["data"]["classes"]
    found = []
    for number, model in enumerate(report["models"]):
        table = model.get("confusion")
        if model["key"] == report.get("reference") or not table or not table["classes"]:
            continue
        classes, counts = _without_the_agreed(table["classes"], table["counts"])
        if not classes:
            continue
        called = [names[at] if at < len(names) else f"class {at}" for at in classes]
        svg, width = _drawn(called, counts, number, model["name"])
        found.append(
            Confusion(
                number=number,
                svg=svg,
                width_px=width,
                shown=len(called),
                classes=len(names),
                pairs=_pairs(called, counts),
            )
        )
    return found


def _without_the_agreed(classes: Sequence[int], counts: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Of many classes those on which the two differ at all."""
    if len(classes) <= FEW:
        return list(classes), [list(line) for line in counts]
    each = range(len(classes))
    kept = [at for at in each if any((counts[at][other] or counts[other][at]) and other != at for other in each)]
    return [classes[at] for at in kept], [[counts[row][column] for column in kept] for row in kept]


def _pairs(names: Sequence[str], counts: Sequence[Sequence[int]]) -> list[tuple[str, str, int]]:
    apart = [
        (int(images), row, column)
        for row, line in enumerate(counts)
        for column, images in enumerate(line)
        if row != column and images
    ]
    apart.sort(key=lambda each: (-each[0], each[1], each[2]))
    return [(names[row], names[column], images) for images, row, column in apart[:PAIRS]]


def _drawn(names: Sequence[str], counts: Sequence[Sequence[int]], number: int, model: str) -> tuple[Markup, int]:
    size = 34.0 if len(names) <= FEW else 17.0
    numbers = len(names) <= FEW
    room = 14 + 6.6 * min(max(map(len, names)), 15)
    off = max((n for r, line in enumerate(counts) for c, n in enumerate(line) if r != c), default=1) or 1
    full = max(max(line) for line in counts) or 1
    parts = []
    for row, line in enumerate(counts):
        top = room + row * size
        parts.append(_label(names[row], room - 6, top + size / 2 + 3.5, turned=False))
        parts.append(_label(names[row], room + row * size + size / 2 + 3.5, room - 6, turned=True))
        for column, images in enumerate(line):
            same = row == column
            share = (images / (full if same else off)) ** 0.5
            place = {"x": room + column * size, "y": top, "width": size - 1.5, "height": size - 1.5, "rx": 2.0}
            words = f"{names[row]} → {names[column]}: {images:,} images"
            cell = tag(
                "rect", **place, class_="cell", style=f"fill-opacity:{0.04 + (0.3 if same else 0.44) * share:.2f}"
            )
            parts.append(tag("g", tag("title", words), cell, class_="s0" if same else style(number)))
            if numbers and images:
                middle = place["x"] + size / 2 - 0.75
                parts.append(
                    tag("text", _few(images), x=middle, y=top + size / 2 + 3, text_anchor="middle", class_="in")
                )
    edge = room + size * len(names)
    label = f"Decisions of the reference, in rows, against those of {model}, in columns"
    return drawing(edge + 2, edge + 2, label, *parts, class_="heat"), round(edge + 2)


def _label(name: str, x: float, y: float, *, turned: bool) -> Markup:
    text = name if len(name) <= 15 else name[:14] + "…"
    turn = f"rotate(-90 {x:.1f} {y:.1f})" if turned else None
    return tag("text", tag("title", name), text, x=x, y=y, text_anchor="start" if turned else "end", transform=turn)


def _few(images: int) -> str:
    return f"{images}" if images < 1000 else f"{images / 1000:.0f}k" if images >= 10_000 else f"{images / 1000:.1f}k"


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """CKA of a model's layers with the reference's."""

    number: int
    svg: Markup


def cka(report: Mapping[str, Any]) -> list[Likeness]:
    """For every model whose layers were compared with the reference's."""
    found = []
    for number, model in enumerate(report["models"]):
        table = (model.get("fidelity") or {}).get("cka")
        if table and table["values"]:
            found.append(Likeness(number=number, svg=_layers(table, number, model["name"])))
    return found


def _layers(table: Mapping[str, Any], number: int, model: str) -> Markup:
    rows, columns, values = table["layers"], table["reference_layers"], table["values"]
    left, top, wide, high = 64.0, 30.0, (352.0 - 64.0) / len(columns), 34.0
    parts = [
        tag("text", "its layer", x=2, y=top - 8, class_="name"),
        tag("text", "the reference's layer", x=350, y=10, text_anchor="end", class_="name"),
    ]
    parts += [
        tag("text", str(name), x=left + (at + 0.5) * wide, y=top - 6, text_anchor="middle")
        for at, name in enumerate(columns)
    ]
    for row, line in enumerate(values):
        y = top + row * high
        parts.append(tag("text", str(rows[row]), x=left - 8, y=y + high / 2 + 3.5, text_anchor="end"))
        for column, value in enumerate(line):
            if value is None:
                continue
            x, share = left + column * wide, min(max(value, 0.0), 1.0)
            cell = tag(
                "rect", x=x, y=y, width=wide - 2, height=high - 2, rx=2.0, class_="cell",
                style=f"fill-opacity:{0.04 + 0.44 * share:.2f}",
            )  # fmt: skip
            words = f"layer {rows[row]} with the reference's {columns[column]}: {short(value)}"
            parts.append(tag("g", tag("title", words), cell, class_=style(number)))
            parts.append(
                tag(
                    "text",
                    f"{value:.2f}".replace("-", "−"),
                    x=x + wide / 2 - 1,
                    y=y + high / 2 + 3,
                    text_anchor="middle",
                    class_="in",
                )
            )
    label = f"Linear CKA of the layers of {model}, in rows, with the reference's, in columns"
    return drawing(352, top + high * len(values) + 2, label, *parts, class_="plot")
