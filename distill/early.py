"""What the options, the recipe's values and the disk show to be wrong before torch is imported, which takes seconds."""

from __future__ import annotations

from pathlib import Path

from distill import folder, ranges
from distill.data import Torchvision
from distill.options import RunOptions
from distill.recipe import Recipe
from distill.standin import missing


def check(recipe: Recipe, options: RunOptions, out: Path) -> None:
    """ValueError for a value out of its range, a folder of somebody else, or images that are not there.

    Preflight, which knows models, processes and images, looks at the rest. Nothing is written, and nothing is fetched.
    """
    options.check()
    if options.dry_run:  # which writes nothing, and has images that stand in for those that are not there
        ranges.check(recipe)
        return
    check_recipe(recipe)
    folder.check_ours(out)


def check_recipe(recipe: Recipe) -> None:
    """ValueError for a value of the recipe out of its range, or images that are not there and cannot be fetched."""
    ranges.check(recipe)
    if not isinstance(recipe.data, Torchvision) and (line := missing(recipe.data)):
        raise ValueError(line)
