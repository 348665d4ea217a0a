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
    tagged = set(timm.list_models(include_tags=True)) | set(timm.list_models())
    if name in tagged:
        return name
    if kind == "local-dir" or Path(name).is_dir():
        folder = Path(place if kind == "local-dir" else name)
        if not (folder / "config.json").is_file():
            found = "has no config.json" if folder.is_dir() else "does not exist"
            raise ValueError(
                f"teacher folder {folder} {found}; give a folder with config.json and model.safetensors, "
                "as a run's student/ or timm's save_for_hf"
            )
        return f"local-dir:{folder}"
    architecture, _, tag = name.partition(".")
    if not tag and timm.is_model(name):  # an old name that timm still understands
        return name
    if timm.is_model(architecture):
        tags = sorted(known for known in tagged if known.startswith(f"{architecture}."))
        near = difflib.get_close_matches(name, tags, n=3, cutoff=0)
    else:
        near = difflib.get_close_matches(name, sorted(tagged), n=3)
    advice = f"did you mean {' or '.join(sorted(near))}?" if near else "timm.list_models(pretrained=True) names them"
    raise ValueError(f"there is no teacher '{name}' in timm {timm.__version__}, nor a folder of that name; {advice}")
