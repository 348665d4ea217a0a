"""`python -m distill recipes`: the recipes of a folder, read from the scripts themselves."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from distill.recipe import Optim, Recipe
from distill.script import recipe_of
from students import sizes

WIDE = 110  # columns; in fewer a recipe takes several lines
NOT_YET = "not yet measured"


@dataclass(frozen=True, kw_only=True)
class Shelved:
    """What one recipe is about, in words.

    script: its path in the folder. fitted: whether the teacher's head is. losses: each with its weight and its kind.
    """

    script: str
    teacher: str
    fitted: bool
    student: str
    data: str
    losses: str
    terms: str
    epochs: str
    top1: str

    @property
    def architecture(self) -> str:
        """The teacher's name without the tag of its weights."""
        return self.teacher.partition(".")[0]

    @property
    def images(self) -> str:
        """The data without its kind."""
        return self.data.rpartition(" ")[2].removesuffix(".npz")


def folder(named: Path | None) -> Path:
    """The folder of recipes: the named one, else `recipes` here, else that of the checkout the package lies in.

    ValueError if there is none.
    """
    if named is not None:
        if not named.is_dir():
            raise ValueError(f"there is no folder {named}; name one with recipes in it, such as recipes")
        return named
    for place in (Path("recipes"), Path(__file__).parents[1] / "recipes"):
        if place.is_dir():
            return place
    raise ValueError(
        "recipes are scripts of the repository and this is an installed package alone; clone the repository, or name "
        "a folder of your own: python -m distill recipes FOLDER"
    )


def shelved(root: Path) -> tuple[list[Shelved], list[str]]:
    """The recipes below a folder, those at its top first, and a line about each that cannot be read."""
    found, broken = [], []
    for script in sorted(root.rglob("*.py"), key=lambda path: (len(path.relative_to(root).parts), str(path))):
        name = script.relative_to(root).as_posix()
        try:
            tree = ast.parse(script.read_text(encoding="utf-8"))
            if _builds_recipe(tree):
                found.append(_described(name, ast.get_docstring(tree) or "", recipe_of(script)))
        except Exception as error:  # it is another's script, so whatever it raises
            broken.append(f"{name} cannot be read: {' '.join(str(error).split()) or type(error).__name__}")
    return found, broken


def _builds_recipe(tree: ast.Module) -> bool:
    """Whether a script assigns `recipe` at its top; others, which may do anything, are not run."""
    targets = [
        target
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    return any(isinstance(target, ast.Name) and target.id == "recipe" for target in targets)


def _described(name: str, docstring: str, recipe: Recipe) -> Shelved:
    teacher = recipe.teacher
    losses = {name: loss for name, loss in recipe.losses.items() if loss.weight}
    return Shelved(
        script=name,
        teacher=teacher.name if teacher else "none",
        fitted=teacher is not None and teacher.head == "fit",
        student=student_name(recipe.student),
        data=data_name(recipe.data),
        losses=" + ".join(f"{loss.weight:g} {type(loss).__name__}" for loss in losses.values()),
        terms=", ".join(losses),
        epochs=epochs(recipe.optim),
        top1=measured(docstring),
    )


def student_name(config: sizes.ViTConfig) -> str:
    """A student's size by its name where it has one, else blocks × width; its patches and its image."""
    known = {"ViT-Ti": sizes.VIT_TINY, "ViT-S": sizes.VIT_SMALL, "ViT-M": sizes.VIT_MEDIUM, "ViT-B": sizes.VIT_BASE}
    known |= {"ViT-L": sizes.VIT_LARGE, "ViT-H": sizes.VIT_HUGE}

    def shape(of: sizes.ViTConfig) -> tuple[Any, ...]:
        return of.embed_dim, of.depth, of.num_heads, of.mlp_ratio

    name = next((name for name, size in known.items() if shape(size) == shape(config)), None)
    (patch, wide), (height, width) = config.patch_hw, config.img_hw
    patch = f"{patch}" if patch == wide else f"{patch}×{wide}"
    image = f"{height}" if height == width else f"{height}×{width}"
    return f"{name or f'ViT {config.depth} × {config.embed_dim}'}/{patch}, {image} px"


def epochs(optim: Optim) -> str:
    """How many, or from where to where if the number of images decides."""
    fewest, most = optim.for_images(10**9).epochs, optim.for_images(1).epochs
    return f"{most:,}" if fewest == most else f"{fewest}–{most}"


def data_name(data: Any) -> str:
    """A data set's kind, and the name or the end of the path that is its first field."""
    first = getattr(data, fields(data)[0].name, "") if fields(data) else ""
    return f"{type(data).__name__} {Path(first).name if isinstance(first, str) else ''}".strip()


def measured(docstring: str) -> str:
    """The top-1 of the sentence that begins with "Measured" in a recipe's docstring; else that there is none yet."""
    found = re.search(r"^Measured\b[^.]*?top-1 (\d+(?:\.\d+)?) %", docstring, flags=re.MULTILINE)
    return f"{found[1]} %" if found else NOT_YET


def page(recipes: Sequence[Shelved], broken: Sequence[str], width: int) -> RenderableType:
    """All of them: a row each in a wide window, else a few lines each."""
    notes = [Text(line, style="red") for line in broken]
    notes.append(
        Text("Run one: accelerate launch recipes/SCRIPT; its options: --help; what it takes: --dry-run", "dim")
    )
    if not recipes:
        return Group("no recipes here", *notes)
    shown = _table(recipes) if width >= WIDE else _blocks(recipes)
    return Group(shown, *notes)


def _table(recipes: Sequence[Shelved]) -> RenderableType:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("recipe", "teacher", "student", "data", "losses", "epochs", "top-1"):
        shown.add_column(column, justify="right" if column in ("epochs", "top-1") else "left", overflow="fold")
    section = ""
    for recipe in recipes:
        place, _, name = recipe.script.rpartition("/")
        if place != section:
            section = place
            shown.add_row(Text(f"{place}/", "bold"))
        fitted = "*" * recipe.fitted
        top1 = "–" if recipe.top1 == NOT_YET else recipe.top1
        cells = (recipe.architecture + fitted, recipe.student, recipe.images, recipe.terms, recipe.epochs, top1)
        shown.add_row(Text(" " * 2 * bool(place) + name, "cyan"), *map(escape, cells))
    return Group(shown, Text("* its head is fitted on the data.  – not yet measured.", "dim"))


def _blocks(recipes: Sequence[Shelved]) -> RenderableType:
    parts: list[RenderableType] = []
    for recipe in recipes:
        facts = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column(overflow="fold")
        facts.add_row("  from", escape(recipe.architecture + ", head fitted" * recipe.fitted))
        facts.add_row("  to", escape(f"{recipe.student}; {recipe.terms}"))
        facts.add_row("  on", escape(f"{recipe.images}, {recipe.epochs} epochs; top-1 {recipe.top1}"))
        parts += [Text(recipe.script, style="bold cyan"), facts]
    return Group(*parts)


def markdown(recipes: Sequence[Shelved]) -> list[str]:
    """The table of recipes/README.md, a line each, its scripts as links."""
    head = ("Recipe", "Teacher", "Student", "Data", "Losses", "Epochs", "Top-1")
    rows = [
        (
            f"[{recipe.script}]({recipe.script})",
            f"`{recipe.teacher}`" + ", head fitted" * recipe.fitted,
            recipe.student,
            recipe.data,
            recipe.losses,
            recipe.epochs,
            recipe.top1,
        )
        for recipe in recipes
    ]
    return ["| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows)]
