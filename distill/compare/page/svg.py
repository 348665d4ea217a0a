"""Drawing in SVG: escaped tags, axes with round ticks, lines and marks in the page's own colours.

Colours are the page's CSS variables, so that a drawing follows it into a dark room; a series also has a mark of its
own shape, so that it is told apart in grey.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]

SERIES = 7
"""Colours and marks before they repeat."""


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. Children and attributes are escaped unless they are Markup; class_ is class, x_y is x-y."""
    given = (
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup().join(escape(child) for child in children)
    return Markup(f"<{name}{''.join(given)}>{inner}</{name}>")


def drawing(width: float, height: float, label: str, *children: object, class_: str = "") -> Markup:
    """An svg of that many units, with a text for those who do not see it."""
    return tag(
        "svg", *children, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label, class_=class_ or None
    )


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From values low..high to places start..end; a logarithmic axis needs low > 0."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The place of a value."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the axis, about `count` of them."""
        return _log_ticks(self.low, self.high, count) if self.log else _ticks(self.low, self.high, count)


def spanning(values: Sequence[float], start: float, end: float, *, log: bool = False, least: float = 0.0) -> Axis:
    """An axis that holds the values with some room around them, and is never narrower than `least`."""
    low, high = min(values), max(values)
    if log:
        low, high = low / 1.6, high * 1.6
    else:
        room = max(0.06 * (high - low), (least - (high - low)) / 2, 1e-9)
        low, high = low - room, high + room
    return Axis(low=low, high=high, start=start, end=end, log=log)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The room of a plot: 360 units wide, its axes, and what their numbers look like."""

    x: Axis
    y: Axis
    x_label: str
    y_label: str
    x_format: Callable[[float], str] = "{:,.4g}".format
    y_format: Callable[[float], str] = "{:.4g}".format
    height: float = 230.0

    def draw(self, label: str, *marks: Markup) -> Markup:
        """The plot: horizontal grid lines, tick labels, both axes' names, and the marks on top."""
        right = max(self.x.start, self.x.end)
        parts = [tag("text", self.y_label, x=2, y=11, class_="name")]
        for value in self.y.ticks():
            y = self.y.at(value)
            parts.append(tag("line", x1=LEFT, x2=right, y1=y, y2=y, class_="grid"))
            parts.append(tag("text", self.y_format(value), x=LEFT - 6, y=y + 3.5, text_anchor="end"))
        base = self.height - BOTTOM
        for value in self.x.ticks():
            x = self.x.at(value)
            parts.append(tag("line", x1=x, x2=x, y1=base, y2=base + 4, class_="tick"))
            parts.append(tag("text", self.x_format(value), x=x, y=base + 15, text_anchor="middle"))
        parts.append(tag("line", x1=LEFT, x2=right, y1=base, y2=base, class_="base"))
        parts.append(tag("text", self.x_label, x=right, y=self.height - 4, text_anchor="end", class_="name"))
        return drawing(WIDTH, self.height, label, *parts, *marks, class_="plot")

    def at(self, point: Point) -> Point:
        return self.x.at(point[0]), self.y.at(point[1])

    def line(self, points: Sequence[Point], series: int, *, title: str, class_: str = "") -> Markup:
        """A line through the points, in a series' colour and dashes."""
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in map(self.at, points))
        shown = tag("path", d=path, class_="line")
        return tag("g", tag("title", title), shown, class_=f"{style(series)} {class_}".strip())


WIDTH, LEFT, RIGHT, TOP, BOTTOM = 360.0, 44.0, 350.0, 22.0, 34.0


def across(values: Sequence[float], *, log: bool = False, least: float = 0.0) -> Axis:
    """A horizontal axis for these values, over the whole frame."""
    return spanning(values, LEFT, RIGHT, log=log, least=least)


def upwards(
    values: Sequence[float], *, log: bool = False, least: float = 0.0, height: float = 230.0, top: float | None = None
) -> Axis:
    """A vertical axis for these values; it does not go above `top`."""
    axis = spanning(values, height - BOTTOM, TOP, log=log, least=least)
    high = axis.high if top is None else min(axis.high, top)
    return Axis(low=axis.low, high=high, start=axis.start, end=axis.end, log=log)


def style(series: int) -> str:
    """The CSS class that has a series' colour."""
    return f"s{series % SERIES}"


def mark(x: float, y: float, series: int, title: str, size: float = 5.0) -> Markup:
    """A series' mark at a place: circle, square, triangle, diamond, …"""
    corners = _CORNERS[series % len(_CORNERS)]
    if corners is None:
        shape = tag("circle", cx=x, cy=y, r=size, class_="mark")
    else:
        points = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners)
        shape = tag("polygon", points=points, class_="mark")
    return tag("g", tag("title", title), shape, class_=style(series))


_CORNERS: list[list[Point] | None] = [
    [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    None,
    [(0, -1.15), (1.1, 0.85), (-1.1, 0.85)],
    [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
    [(0, 1.15), (1.1, -0.85), (-1.1, -0.85)],
    [(-1.2, -0.4), (-0.4, -0.4), (-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4),
     (0.4, 1.2), (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4)],
    [(-1.3, -0.55), (1.3, -0.55), (1.3, 0.55), (-1.3, 0.55)],
]  # fmt: skip


def swatch(series: int) -> Markup:
    """A legend's sample: a piece of the series' line with its mark."""
    line = tag("path", d="M1 7H25", class_="line")
    parts = tag("g", line, class_=style(series)), mark(13, 7, series, "", size=4.2)
    return tag("svg", *parts, viewBox="0 0 26 14", aria_hidden="true", class_="swatch")


def _ticks(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**power for power in powers for digit in digits if low <= digit * 10.0**power <= high]
        if len(ticks) <= count:
            return ticks
    return ticks[:: math.ceil(len(ticks) / count)]


def _short(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
