"""Numbers as a reader likes them: percent, counts, milliseconds, p-values."""

from __future__ import annotations

import math
import re

from markupsafe import Markup, escape

from distill.compare import cells
from distill.compare.cells import NONE


def percent(share: float | None, digits: int = 1) -> str:
    """94.5 %"""
    return NONE if share is None else f"{100 * share:.{digits}f}\u202f%"


def bounds(interval: tuple[float, float] | list[float] | None) -> str:
    """81.0–83.4, in percent; a line does not break in it."""
    return "" if interval is None else f"{100 * interval[0]:.1f}\u2060–\u2060{100 * interval[1]:.1f}"


def points(difference: float) -> str:
    """+8.0, in points of percent, with a true minus."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def count(number: float | None, unit: str = "") -> str:
    """0.68 M, 1.24 G, 3.4 k."""
    if number is None:
        return NONE
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if (number >= size * 0.1 and name == "M") or number >= size:
            return f"{number / size:,.2f}\u202f{name}{unit}"
    return f"{number:,.0f}{chr(0x202F) + unit if unit else ''}"


def short(value: float | None) -> str:
    """Three digits: 0.261, 12.3, 1,234."""
    if value is None:
        return NONE
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:z,.{min(digits, 3)}f}".replace("-", "−")


def p_value(p: float | None) -> str:
    """0.034, or < 0.001; a line does not break in it."""
    return cells.p_value(p).replace(" ", "\u202f")


def times(ratio: float) -> str:
    """5.0×"""
    return f"{ratio:.1f}×" if ratio < 10 else f"{ratio:,.0f}×"


def listed(words: list[str]) -> str:
    """a, b and c"""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def breakable(name: str) -> Markup:
    """The name, escaped, with places where a line may break behind _ - / . and :"""
    return Markup(re.sub(r"(?<=\w)([_/.:-])(?=\w)", r"\1<wbr>", str(escape(name))))


def softly(text: str) -> Markup:
    """The sentence, escaped, with places where a line may break behind the _ of a name."""
    return Markup(str(escape(text)).replace("_", "_<wbr>"))
