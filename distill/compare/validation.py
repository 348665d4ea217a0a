"""Which images the models are compared on, and what their classes are called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.compare.named import Named, names_in
from distill.data import Arrays, Folder, Images, class_folders
from distill.folder import read_recipe
from distill.script import recipe_of
from distill.unlabelled import Unlabelled


@dataclass(frozen=True)
class Validation:
    """Images with labels that index `classes`, the names of the classes; () where nobody names them."""

    name: str
    images: Images
    classes: tuple[str, ...]


def find(named: Named, data: Path | None, data_from: Path | None) -> Validation:
    """The images at `data`, those of the recipe or run at `data_from`, or those of the first run that was named.

    ValueError if there are none, or both are given.
    """
    if data is not None and data_from is not None:
        raise ValueError("--data and --data-from both say which images to use; give one of them")
    if data is not None:
        return _at(data)
    if data_from is not None:
        if data_from.is_dir():
            return _of_recipe(read_recipe(data_from).data, data_from)
        return _of_recipe(recipe_of(data_from).data, None)
    if not named.runs:
        raise ValueError(
            "none of the models is a run folder (one with a recipe.json), which would say on which images; give "
            "--data PATH, or look at how the run is spelt"
        )
    folder, recipe = next(iter(named.runs.items()))
    return _of_recipe(recipe.data, folder)


def _at(path: Path) -> Validation:
    if path.is_file():
        arrays = Arrays(path=str(path))
        return Validation(path.stem, arrays.val(), arrays.classes)
    if not path.is_dir():
        raise ValueError(f"there is no file or folder {path}; name a folder of images or an .npz file with --data")
    if (path / "train").is_dir():
        data = Folder(root=str(path))
        return Validation(path.name, data.val(), data.classes)
    # Every image below the folder, with the class folders' names where there are some.
    images = Unlabelled(root=str(path), val_root=str(path)).val()
    return Validation(path.name, images, class_folders(path))


def _of_recipe(data: Any, folder: Path | None) -> Validation:
    names = tuple(data.classes) or tuple(getattr(data, "label_names", ()))
    if not names and folder is not None and (folder / "student" / "config.json").is_file():
        names = names_in(folder)
    return Validation(data_name(data), data.val(), names)


def data_name(data: Any) -> str:
    """What a data set is called: its file's or folder's name, or its kind."""
    for word in ("name", "path", "root"):
        value = getattr(data, word, None)
        if isinstance(value, str) and value:
            return Path(value).stem if word == "path" else Path(value).name
    return type(data).__name__
