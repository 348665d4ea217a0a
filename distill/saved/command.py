"""The command line of `python -m distill save RECIPE`: how saving is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from distill.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class SaveOptions:
    """What is saved and how. Every field of the recipe is an option too, as in the recipe's own command."""

    out: str | None = None
    """Folder of the outputs; None: saved/<file name of the recipe>. One that is there is finished or made longer."""
    epochs: int | None = None
    """Epochs of views; None: those of the recipe. A longer run shows them in turn."""
    k: int | Literal["all"] | None = None
    """Likeliest classes kept of each view; None: all of up to 100 classes, 10 of up to 1,000, 100 of more."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of the numbers kept. With --k all, float32 trains bit for bit as the teacher itself does, on one CPU process."""
    embedding: bool = False
    """Keep the teacher's embedding too, for the losses that read it."""
    shard_images: int = 32_768
    """Images in a file, in whole batches, at least one. A process that is killed loses at most one file's work."""
    images_at_once: int | None = None
    """Images that the teacher is asked about at once; None: a batch of the recipe, as one process trains with."""
    workers: int | None = None
    """Loader processes of each process; None: the cores that are left, one to eight. 0: load in the process."""
    threads: int | None = None
    """CPU threads of each process; None: the cores of the machine shared evenly."""
    dry_run: bool = False
    """Say how large it will be, and whether there is room, and stop."""


@dataclass(frozen=True, kw_only=True)
class Save:
    """Save what a recipe's teacher says of its views; any number of students then learn from it with --saved."""

    script: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RECIPE")]
    """A script whose `recipe` is a Recipe. Behind it in the first place its fields are options too."""
    options: Annotated[SaveOptions, tyro.conf.arg(name="")] = SaveOptions()

    def __call__(self) -> None:
        from distill.script import recipe_of

        _save(recipe_of(self.script), self.options, self.script.stem)

    @classmethod
    def with_recipe(cls, script: Path, args: Sequence[str]) -> None:
        """Carry it out with the options behind the script, its recipe's and these. An unknown one ends the program."""
        from distill.commandline import parse
        from distill.script import recipe_of

        prog = f"python -m distill save {script}"
        recipe, options = parse(recipe_of(script), SaveOptions(), args, prog=prog, description=cls.__doc__)
        _save(recipe, options, script.stem)


def _save(recipe: Recipe, options: SaveOptions, name: str) -> None:
    from distill import early

    early.check_recipe(recipe)
    # Heavy imports wait until what can be known without them is known to be right.
    from distill.saved.saving import save

    save(recipe, options, name)
