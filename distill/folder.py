"""The run folder: whose it is, whether it is finished, and when it may be begun, resumed or begun anew."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

from distill.recipe import Recipe, differences, from_json, to_json

OURS = ("recipe.json", "metrics.jsonl", "checkpoints", "student", "teacher_head.safetensors", "saved_outputs.json")
FOUND = ("bad_images.txt",)
REPORTS = ("report.json", "report.md", "report.html")
TRACKERS = ("distill",)


def claim(out: Path, recipe: Recipe, resume: Literal["auto", "never"]) -> Literal["begin", "resume", "finished"]:
    """Decide what a run in `out` does. ValueError if the folder holds other things or another recipe's run."""
    if not out.exists() or not any(out.iterdir()):
        return "begin"
    if not (out / "recipe.json").is_file():
        raise ValueError(f"{out} is not empty and not a run folder; choose another with --out")
    if resume == "never":
        return "begin"
    changed = differences(json.loads((out / "recipe.json").read_text()), to_json(recipe))
    # A run that was stopped by a bad image had met none before, so it may go on and pass over it.
    changed = [change for change in changed if not change.startswith("data.on_bad: ")]
    if changed:
        raise ValueError(
            f"{out} holds a run of another recipe ({'; '.join(changed[:3])}{' …' if len(changed) > 3 else ''}); "
            "choose another with --out, or start over with --resume never"
        )
    return "finished" if (out / "report.json").is_file() else "resume"


def begin(out: Path, recipe: Recipe) -> None:
    """Make `out` the folder of a new run: what an earlier run wrote goes, nothing else does."""
    for name in (*OURS, *FOUND, *REPORTS, *TRACKERS):
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for path in out.glob("teacher_head_*.safetensors"):  # one a member of an ensemble
        path.unlink()
    write(out / "recipe.json", to_json(recipe))


def read_recipe(out: Path) -> Recipe:
    """The recipe of a run folder. ValueError if it is none."""
    try:
        recipe = from_json(json.loads((out / "recipe.json").read_text()))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{out} is no run folder (it has no recipe.json); name one such as runs/quickstart") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{out / 'recipe.json'} is not JSON ({error})") from None
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{out / 'recipe.json'} holds no recipe; name a run folder such as runs/quickstart")
    return recipe


def write(path: Path, value: Any) -> None:
    """Write JSON, or text as it is, aside and rename it, so that a reader never sees half of it."""
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
