"""From what a user calls a teacher to the name that timm takes."""

from __future__ import annotations

import difflib
from pathlib import Path

import timm


def to_timm(name: str) -> str:
    """A timm name, "hf-hub:ORG/NAME" or "local-dir:FOLDER", as timm's create_model takes it.

    ValueError with the nearest names if timm has no such model, or if there is no such folder.
    """
    kind, _, place = name.partition(":")
    if kind == "hf-hub" and place:
        return name
    if name in _known():
        return name
    if kind == "local-dir" or Path(name).is_dir():
        folder = Path(place if kind == "local-dir" else name)
        if not (folder / "config.json").is_file():
            found = "has no config.json" if folder.is_dir() else "does not exist"
            raise ValueError(
                f"model folder {folder} {found}; give a folder with config.json and model.safetensors, "
                "as a run's student/ or timm's save_for_hf"
            )
        return f"local-dir:{folder}"
    if "." not in name and timm.is_model(name):  # an old name that timm still understands
        return name
    near = nearest(name)
    advice = f"did you mean {' or '.join(sorted(near))}?" if near else "timm.list_models(pretrained=True) names them"
    raise ValueError(f"there is no teacher '{name}' in timm {timm.__version__}, nor a folder of that name; {advice}")


def nearest(name: str) -> list[str]:
    """At most three names that timm has, like one that it has not: of an architecture that it has, its weights."""
    architecture = name.partition(".")[0]
    if timm.is_model(architecture):
        tags = sorted(known for known in _known() if known.startswith(f"{architecture}."))
        return difflib.get_close_matches(name, tags, n=3, cutoff=0)
    return difflib.get_close_matches(name, sorted(_known()), n=3)


def _known() -> set[str]:
    return set(timm.list_models(include_tags=True)) | set(timm.list_models())
