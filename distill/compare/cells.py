"""The report's figures as short texts: which columns there are, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Row = Mapping[str, Any]
Column = Callable[[Row], str]
NONE = "–"


def share(value: float | None, interval: list[float] | None = None) -> str:
    """In percent, and the interval where there is one."""
    if value is None:
        return NONE
    bounds = f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else ""
    return f"{100 * value:.2f}{bounds}"


def number(value: float | None, digits: int = 3) -> str:
    return NONE if value is None else f"{value:z.{digits}f}"


def p_value(p: float | None) -> str:
    """0.034, or < 0.001."""
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _inside(row: Row, *path: str) -> Any:
    value: Any = row
    for name in path:
        value = None if value is None else value[name]
    return value


def _millions(value: int | None) -> str:
    return NONE if value is None else f"{value / 1e6:.2f} M"


def _macs(value: int | None) -> str:
    return NONE if value is None else f"{value / 1e9:.2f} G" if value >= 1e9 else f"{value / 1e6:.1f} M"


def _bytes(value: int | None) -> str:
    return NONE if value is None else f"{value / 1e6:.1f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"


def _range(value: Mapping[str, float] | None, digits: int) -> str:
    if value is None:
        return NONE
    median, low, high = (f"{value[word]:.{digits}f}" for word in ("median", "low", "high"))
    return f"{median} [{low}, {high}]"


def _last(row: Row) -> str:
    cka = _inside(row, "fidelity", "cka")
    return NONE if cka is None else number(cka["values"][-1][-1], 2)


ACCURACY: dict[str, Column] = {
    "role": lambda row: row["role"],
    "model": lambda row: row["key"],
    "top-1 %": lambda row: share(row["top1"], row["top1_interval"]),
    "top-5 %": lambda row: share(row["top5"], row["top5_interval"]),
    "p": lambda row: p_value(_inside(row, "mcnemar", "p")),
    "agrees %": lambda row: share(row["agreement"]),
    "KL": lambda row: number(row["kl"]),
    "ranks": lambda row: number(_inside(row, "fidelity", "rank_correlation"), 2),
    "CKA": _last,
    "kept %": lambda row: share(row["kept"]),
    "params": lambda row: _millions(row["params"]),
}

CALIBRATION: dict[str, Column] = {
    "model": lambda row: row["key"],
    "NLL": lambda row: number(_inside(row, "calibration", "before", "nll")),
    "Brier": lambda row: number(_inside(row, "calibration", "before", "brier")),
    "ECE %": lambda row: share(_inside(row, "calibration", "before", "ece")),
    "T": lambda row: number(_inside(row, "calibration", "temperature"), 2),
    "NLL at T": lambda row: number(_inside(row, "calibration", "after", "nll")),
    "Brier at T": lambda row: number(_inside(row, "calibration", "after", "brier")),
    "ECE % at T": lambda row: share(_inside(row, "calibration", "after", "ece")),
}

COST: dict[str, Column] = {
    "model": lambda row: row["key"],
    "size": lambda row: "×".join(map(str, row["img_size"])),
    "MACs": lambda row: _macs(_inside(row, "cost", "macs")),
    "file": lambda row: _bytes(_inside(row, "cost", "file_bytes")),
    "ms at batch 1": lambda row: _range(_inside(row, "cost", "latency_ms"), 2),
    "images/s at 64": lambda row: _range(_inside(row, "cost", "throughput"), 0),
    "memory": lambda row: _bytes(_inside(row, "cost", "peak_bytes")),
}


def robustness(kinds: Mapping[str, Any]) -> dict[str, Column]:
    """A column for each corruption: the mean top-1 over its strengths."""

    def mean_of(kind: str) -> Column:
        return lambda row: share(sum(row["robustness"][kind]) / len(row["robustness"][kind]))

    return {"model": lambda row: row["key"], "plain": lambda row: share(row["uncorrupted_top1"])} | {
        kind: mean_of(kind) for kind in kinds
    }


def legend(report: Mapping[str, Any]) -> list[str]:
    """What the columns of accuracy mean, a sentence each."""
    reference = report["reference"]
    lines = ["In brackets: 95 % interval."]
    if reference is not None:
        lines += [
            f"p: McNemar's test of equal top-1 with {reference}.",
            f"agrees: share of images on which a model decides as {reference} does.",
            f"KL: from the probabilities of {reference} to the model's, in nats.",
            f"ranks: mean rank correlation of an image's logits with those of {reference}.",
            "CKA: of both last layers.",
            "kept: share of the teacher's top-1, or of that of the model it is compared with.",
        ]
    return lines


def caveat(report: Mapping[str, Any]) -> str | None:
    """What is to be known of the figures at T; the same of all models, which saw the same images."""
    notes = ((row.get("calibration") or {}).get("note") for row in report["models"])
    return next((note for note in notes if note), None)
