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

from distill.recipe import Recipe
from distill.script import recipe_of
from students import sizes

WIDE = 110  # columns; in fewer a recipe takes several lines
NOT_YET = "not yet measured"


@dataclass(frozen=True, kw_only=True)
class Shelved:
    """What one recipe is about, in words. script: its path in the folder."""

    script: str
    title: str
    teacher: str
    student: str
    data: str
    losses: str
    epochs: int
    top1: str


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
    return Shelved(
        script=name,
        title=docstring.partition("\n")[0].rstrip("."),
        teacher="none" if teacher is None else teacher.name + (", head fitted" if teacher.head == "fit" else ""),
        student=student_name(recipe.student),
        data=data_name(recipe.data),
        losses=" + ".join(f"{loss.weight:g} {type(loss).__name__}" for loss in recipe.losses.values() if loss.weight),
        epochs=recipe.optim.epochs,
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


def data_name(data: Any) -> str:
    """A data set's kind, and the name or the end of the path that is its first field."""
    first = getattr(data, fields(data)[0].name, "") if fields(data) else ""
    return f"{type(data).__name__} {Path(first).name if isinstance(first, str) else first}".strip()


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
    return Group(shown, Text(), *notes)


COLUMNS = ("recipe", "teacher", "student", "data", "losses", "epochs", "top-1")


def _cells(recipe: Shelved) -> tuple[str, ...]:
    return (
        recipe.script,
        recipe.teacher,
        recipe.student,
        recipe.data,
        recipe.losses,
        f"{recipe.epochs:,}",
        recipe.top1,
    )


def _table(recipes: Sequence[Shelved]) -> RenderableType:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        shown.add_column(
            column,
            style="cyan" if column == "recipe" else None,
            justify="right" if column == "epochs" else "left",
            overflow="fold",
            no_wrap=column in ("recipe", "epochs"),
        )
    for recipe in recipes:
        shown.add_row(*map(escape, _cells(recipe)))
    return shown


def _blocks(recipes: Sequence[Shelved]) -> RenderableType:
    parts: list[RenderableType] = []
    for recipe in recipes:
        parts.append(Text(recipe.script, style="bold cyan"))
        facts = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column(overflow="fold")
        trained = f"{recipe.epochs:,} epochs on {recipe.data}: {recipe.losses}"
        for name, value in (("  from", recipe.teacher), ("  to", f"{recipe.student}; top-1 {recipe.top1}")):
            facts.add_row(name, escape(value))
        facts.add_row("  by", escape(trained))
        parts.append(facts)
    return Group(*parts)


def markdown(recipes: Sequence[Shelved]) -> list[str]:
    """The table of recipes/README.md, a line each, its scripts as links."""
    lines = ["| " + " | ".join(name.capitalize() for name in COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for recipe in recipes:
        script, teacher, *rest = (cell.replace("|", "\\|") for cell in _cells(recipe))
        name, _, fitted = teacher.partition(", ")
        of_teacher = f"`{name}`" + (f", {fitted}" if fitted else "")
        lines.append("| " + " | ".join([f"[{script}]({script})", of_teacher, *rest]) + " |")
    return lines
