"""Which losses help: each of the library on a third of the quickstart's images, against labels alone.

python recipes/studies/losses.py --threads 1

A row is labels and one loss, with its paper's weights; student, teacher, epochs and learning rate are the quickstart's,
so a run takes a third of its steps. A finished run is kept, a stopped one goes on, and the table is written anew after
every row. --rows takes some of them, so that two terminals can share the work. Measured: docs/losses.md.
"""

import json
import statistics
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro
from rich.console import Console
from rich.markdown import Markdown

from distill import Arrays, Recipe, run
from distill.data import ArrayImages
from distill.losses import (
    CRD,
    DIST,
    DKD,
    NKD,
    OFA,
    RKD,
    AttentionTransfer,
    BCETargets,
    CosineEmbedding,
    CrossEntropy,
    HardTargets,
    Hint,
    Manifold,
    SimilarityPreserving,
    SoftTargets,
    ViTKD,
)
from distill.script import recipe_of

RECIPES = Path(__file__).resolve().parents[1]
DATA = RECIPES / "data" / "fashion_mnist.npz"
# Student blocks and teacher stages whose grids are of one size or nearly: 7×7 with 7×7, 7×7 with 4×4.
PAIRS = ((3, 3), (5, 4))
LABELS = "labels-alone"


@dataclass(frozen=True, kw_only=True)
class Third:
    """Every third training image of a set, and all its validation images."""

    whole: Arrays = field(default_factory=lambda: Arrays(path=str(DATA)))

    @property
    def classes(self) -> tuple[str, ...]:
        return self.whole.classes

    def train(self) -> ArrayImages:
        images = self.whole.train()
        return ArrayImages(images.images[::3], images.labels[::3])

    def val(self) -> ArrayImages:
        return self.whole.val()

    def fingerprint(self) -> str:
        return f"a third of {self.whole.fingerprint()}"


base = replace(recipe_of(RECIPES / "quickstart.py"), data=Third(), losses={})

labels = CrossEntropy()
rows = {
    LABELS: {"labels": labels},
    "soft-targets": {"labels": CrossEntropy(weight=0.1), "soft": SoftTargets(weight=0.9)},
    "standardised": {
        "labels": CrossEntropy(weight=0.1),
        "soft": SoftTargets(weight=9.0, temperature=2.0, standardize=True),
    },
    "hard-targets": {"labels": CrossEntropy(weight=0.5), "hard": HardTargets()},
    "hard-token": {"labels": CrossEntropy(weight=0.5), "hard": HardTargets(head="token")},
    "DKD": {"labels": labels, "dkd": DKD()},
    "DKD-imagenet": {"labels": labels, "dkd": DKD(beta=0.5, temperature=1.0)},
    "DIST": {"labels": labels, "dist": DIST(tau=4.0)},
    "NKD": {"labels": labels, "nkd": NKD()},
    "OFA": {"labels": labels, "ofa": OFA()},
    "BCE-targets": {"labels": labels, "bce": BCETargets()},
    "hint": {"labels": labels, "hint": Hint(pairs=PAIRS)},
    "attention-transfer": {"labels": labels, "attention": AttentionTransfer(pairs=PAIRS)},
    "attention-transfer-100": {"labels": labels, "attention": AttentionTransfer(pairs=PAIRS, weight=100.0)},
    "attention-transfer-10": {"labels": labels, "attention": AttentionTransfer(pairs=PAIRS, weight=10.0)},
    "similarity": {"labels": labels, "similarity": SimilarityPreserving(pairs=PAIRS)},
    "similarity-300": {"labels": labels, "similarity": SimilarityPreserving(pairs=PAIRS, weight=300.0)},
    "similarity-30": {"labels": labels, "similarity": SimilarityPreserving(pairs=PAIRS, weight=30.0)},
    "RKD": {"labels": labels, "rkd": RKD()},
    "manifold": {"labels": labels, "manifold": Manifold(pairs=PAIRS)},
    "ViTKD": {"labels": labels, "vitkd": ViTKD(pairs=((0, 2), (1, 3)), generated=(5, 4))},
    "cosine": {"labels": labels, "cosine": CosineEmbedding()},
    "CRD": {"labels": labels, "crd": CRD()},
    "CRD-0.1": {"labels": labels, "crd": CRD(weight=0.1)},
    "CRD-0.02": {"labels": labels, "crd": CRD(weight=0.02)},
}


@dataclass(frozen=True, kw_only=True)
class Study:
    """Which losses help: each of the library on a third of the quickstart's images, against labels alone."""

    rows: tuple[str, ...] = tuple(rows)
    """The rows to run, by name."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The seeds of each."""
    out: Path = Path("runs/losses")
    """Folder for the runs and table.md."""
    threads: int | None = None
    """Threads of torch on a CPU; None: all cores."""


def recipe_for(row: str) -> Recipe:
    """The recipe of a row; labels alone has no teacher."""
    recipe = replace(base, losses=rows[row])
    if row == LABELS:
        return recipe.without_teacher()
    return replace(recipe, student=replace(base.student, distilled=row == "hard-token"))


def table(study: Study) -> str:
    """The table of all rows that have a finished run, in Markdown; the difference is to labels alone, same seeds."""

    def measured(row: str) -> dict[int, dict]:
        files = {seed: study.out / row / f"seed{seed}" / "report.json" for seed in study.seeds}
        reports = {seed: json.loads(file.read_text()) for seed, file in files.items() if file.is_file()}
        return {seed: {model["role"]: model for model in report["models"]} for seed, report in reports.items()}

    alone = {seed: models["baseline"]["top1"] for seed, models in measured(LABELS).items()}
    lines = [
        "| Row | Losses | Top-1 % | ± | Over labels alone | Agrees % | Seeds |",
        "| --- | --- | --: | --: | --: | --: | --: |",
    ]
    for row, losses in rows.items():
        found = measured(row)
        if not found:
            continue
        students = {seed: models.get("student") or models["baseline"] for seed, models in found.items()}
        top1 = [100 * model["top1"] for model in students.values()]
        gains = [100 * (model["top1"] - alone[seed]) for seed, model in students.items() if seed in alone]
        agrees = [100 * model["agreement"] for model in students.values() if model.get("agreement") is not None]
        cells = [
            row,
            " + ".join(f"{loss.weight:g} {type(loss).__name__}" for loss in losses.values()),
            f"{statistics.mean(top1):.1f}",
            f"{statistics.stdev(top1):.1f}" if len(top1) > 1 else "–",
            _gain(gains) if row != LABELS else "–",
            f"{statistics.mean(agrees):.1f}" if agrees else "–",
            str(len(top1)),
        ]
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _gain(gains: list[float]) -> str:
    """Points over labels alone on the same seeds, with their deviation."""
    if not gains:
        return "–"
    spread = f" ± {statistics.stdev(gains):.1f}" if len(gains) > 1 else ""
    return f"{statistics.mean(gains):+.1f}{spread}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    study = tyro.cli(Study, description=__doc__)
    if unknown := set(study.rows) - set(rows):
        sys.exit(f"error: there is no row {sorted(unknown)[0]!r}; the rows are {', '.join(rows)}")
    for row in study.rows:
        for seed in study.seeds:
            out = study.out / row / f"seed{seed}"
            options = ["--seed", str(seed), "--out", str(out), "--eval-every-epochs", "4", "--workers", "1"]
            threads = ["--threads", str(study.threads)] if study.threads else []
            run(recipe_for(row), options + threads)
        (study.out / "table.md").write_text(table(study))
    Console().print(Markdown(table(study)))


if __name__ == "__main__":
    main()
