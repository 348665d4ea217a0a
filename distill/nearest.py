"""What a user may have meant by the name of a model or a run that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

TORCH = (".pt", ".pth", ".pt2", ".ts", ".bin", ".ckpt")
"""Endings of torch's own files."""
MOST = 3


def no_model(word: str, takes: str, names: Sequence[str] = ()) -> ValueError:
    """The error for a word that names no model. takes: what would. names: the nearest of those known elsewhere."""
    path = Path(word)
    if path.suffix in TORCH:
        return ValueError(
            f"{word} is a file of torch's, and loading one can run code that is in it; name the run or the folder that "
            "it was exported from, or an ONNX file (python -m distill export STUDENT --to onnx)"
        )
    if path.suffix == ".safetensors":
        return ValueError(f"{word} holds weights alone; name the folder with its config.json")
    if path.is_file():
        return ValueError(f"{word} is no model; name {takes}")
    near = [*nearest_folders(path), *names][:MOST]
    return ValueError(f"there is no model or run '{word}'; {f'did you mean {_or(near)}?' if near else f'name {takes}'}")


def nearest_folders(path: Path) -> list[str]:
    """Runs and models beside the path, or in runs/, whose names are like its own; the nearest first."""
    places = dict.fromkeys((path.parent, Path("runs")))
    found = {str(one): one.name for place in places for one in _models(place)}
    near = difflib.get_close_matches(path.name, sorted(set(found.values())), n=MOST, cutoff=0.65)
    return [place for name in near for place, own in found.items() if own == name][:MOST]


def _models(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return sorted(
        one
        for one in place.iterdir()
        if one.suffix == ".onnx" or any((one / file).is_file() for file in ("recipe.json", "config.json"))
    )


def _or(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
