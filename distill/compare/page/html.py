"""From a report and its pictures to report.html: one file, which asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from distill import folder
from distill.compare.cells import caveat
from distill.compare.page import classes, definitions, heat, outcome, plots, svg, table, trust, words
from distill.compare.page.pictures import Pictures, shown

HERE = Path(__file__).parent
ON_PAPER = 5
"""Models side by side on paper; further ones have a table of their own."""


def write(out: Path, report: Mapping[str, Any], pictures: Pictures | None = None) -> None:
    """Write the page of a report into the folder as report.html; a reader never sees half of it."""
    folder.write(out / "report.html", render(report, pictures))


def render(report: Mapping[str, Any], pictures: Pictures | None = None) -> str:
    """The page of a report (the contents of report.json). What the report has not, or as null, is left out."""
    import jinja2

    # Names of classes, models and files are anybody's text; everything but Markup is escaped.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("page.html.j2")
    return page.render(_context(report, pictures or Pictures()))


def _context(report: Mapping[str, Any], pictures: Pictures) -> dict[str, Any]:
    report = {**report, "models": _told_apart(report["models"])}
    models = report["models"]
    reference = next((n for n, model in enumerate(models) if model["key"] == report.get("reference")), None)
    cards = shown(report)
    numbered = list(enumerate(models))
    script = (HERE / "page.js").read_text(encoding="utf-8")
    parts = {
        "cost": plots.cost(report),
        "curves": plots.curves(report),
        "losses": plots.losses(report),
        "classes": classes.per_class(report),
        "confusions": heat.confusion(report),
        "cards": [(n, cards[m["key"]]) for n, m in numbered if m["key"] in cards] if reference is not None else [],
        "reliability": trust.reliability(report),
        "robustness": trust.robustness(report),
        "likeness": heat.cka(report),
        "inside": [(n, pictures.inside[m["key"]]) for n, m in numbered if m["key"] in pictures.inside],
    }
    return {
        **parts,
        "data": report["data"],
        "models": models,
        "reference": reference,
        "pictures": pictures,
        "headline": outcome.headline(report),
        "facts": outcome.facts(report),
        "columns": table.columns(report),
        "on_paper": ON_PAPER,
        **_forests(models),
        "loss_series": list(dict.fromkeys(n for plot in parts["losses"] for n in plot.series)),
        "how_accuracy": _how_accuracy(parts),
        "how_robust": _how_robust(report["data"]),
        "caveat": caveat(report),
        "how_gallery": _how_gallery(report, reference, pictures),
        "definitions": definitions.of(report, list(pictures.methods.values())),
        "contents": _contents(parts),
        "called": lambda at: _called(report, at),
        "points": words.points,
        "breakable": words.breakable,
        "softly": words.softly,
        "swatch": svg.swatch,
        "series_count": svg.SERIES,
        "style": Markup((HERE / "page.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "policy": _policy(script),
    }


def _told_apart(models: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The models, those that share a name called by their keys, which tell them apart."""
    names = [model["name"] for model in models]
    return [{**model, "name": model["key"]} if names.count(model["name"]) > 1 else model for model in models]


def _policy(script: str) -> str:
    """Nothing but what is in the file: no request, no form, and no script but the page's own."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _forests(models: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Each model's top-1 on one axis, and the axis' ends in words; empty where nothing has labels."""
    ends = [end for model in models if model.get("top1") is not None for end in _ends(model)]
    if not ends:
        return {"forests": [], "span": ""}
    low, high = min(ends), max(ends)
    high = high if high > low else low + 0.01
    return {
        "forests": [
            None if model.get("top1") is None else plots.forest(model, number, low, high)
            for number, model in enumerate(models)
        ],
        "span": f"{100 * low:.0f} to {100 * high:.0f} %",
    }


def _ends(model: Mapping[str, Any]) -> list[float]:
    return list(model.get("top1_interval") or [model["top1"]])


def _how_accuracy(parts: Mapping[str, Any]) -> str:
    said = ["Bars are 95 % intervals; better is up and to the right."] if parts["cost"] else []
    if parts["curves"]:
        said.append("Training: accuracy on the validation images; dotted, the level of the reference.")
    return " ".join(said)


def _how_robust(data: Mapping[str, Any]) -> str:
    said = "Top-1 as an image is made worse, from as it is (0) to the strongest corruption (5)"
    some = data.get("corrupted")
    return f"{said}, on {some:,} of the images." if some and some < data["images"] else f"{said}."


def _how_gallery(report: Mapping[str, Any], reference: int | None, pictures: Pictures) -> str:
    if reference is None:
        return ""
    name = report["models"][reference]["name"]
    said = (
        f"Images on which a model and {name} decide differently: of every class first the one on which both are most "
        "confident, then the next. ✓ marks the label."
    )
    methods = sorted(set(pictures.methods.values()))
    return f"{said} Warm: where each one looks ({words.listed(methods)})." if methods else said


_TITLES = {
    "accuracy": ("Accuracy", ("cost", "curves")),
    "classes": ("Classes", ("classes",)),
    "confusion": ("Confusion", ("confusions",)),
    "calibration": ("Calibration", ("reliability",)),
    "losses": ("Losses", ("losses",)),
    "robustness": ("Robustness", ("robustness",)),
    "layers": ("Layers", ("likeness",)),
    "gallery": ("Disagreements", ("cards",)),
    "inside": ("Inside", ("inside",)),
}


def _contents(parts: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [(key, title) for key, (title, of) in _TITLES.items() if any(parts[name] for name in of)]
    return [("models", "Models"), *found, ("definitions", "Definitions")]


def _called(report: Mapping[str, Any], at: int) -> str:
    names = report["data"]["classes"]
    return names[at] if 0 <= at < len(names) else f"class {at}"
