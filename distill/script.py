"""The recipe that a script builds, without running what the script does under `__main__`."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path
from types import FunctionType

from distill.recipe import Recipe


def recipe_of(script: Path) -> Recipe:
    """The `recipe` of a script. ValueError if there is no such file, or none in it."""
    name = "__recipe__"
    spec = importlib.util.spec_from_file_location(name, script)
    if not script.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"there is no recipe {script}; name a script such as recipes/quickstart.py")
    sys.path.insert(0, str(script.resolve().parent))  # as for a script that is run, which may import its neighbours
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its own data classes are looked up by loader processes
    spec.loader.exec_module(module)
    recipe = getattr(module, "recipe", None)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{script} has no Recipe named recipe; write recipe = Recipe(...) and then run(recipe) in it")
    return recipe


def import_as_main(script: Path) -> None:
    """Run a script's definitions, and make its classes and functions known as those of `__main__`.

    So a class or function of a script that was run is known to recipe.json. ValueError if there is no such file.
    """
    sys.path.insert(0, str(script.resolve().parent))  # as for a script that is run, which may import its neighbours
    try:
        names = runpy.run_path(str(script), run_name="__recipe__")
    except OSError as error:
        raise ValueError(f"the script {script} cannot be read ({error.strerror}); name the recipe's file") from None
    for name, value in names.items():
        if isinstance(value, type) or (isinstance(value, FunctionType) and value.__module__ == "__recipe__"):
            setattr(sys.modules["__main__"], name, value)
