"""`python -m distill losses`: what the loss library has, read from the losses themselves."""

from __future__ import annotations

import difflib
import inspect
import re
from dataclasses import MISSING, fields
from typing import Any

import docstring_parser
import torch
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from distill import losses
from distill.losses import Needs
from students.outputs import Shapes
from students.sizes import VIT_TINY

# What the numbers of parameters are stated for: ViT-Ti taught by a ViT-S, both at 224 px.
STUDENT = VIT_TINY.shapes()
TEACHER = Shapes(1000, False, 384, dict.fromkeys(range(12), (384, 14, 14)))
IMAGES = 1000
ENOUGH_FOR_AUTHORS = 100  # columns; in fewer a paper is its arXiv number


def names() -> list[str]:
    """The losses that a recipe can name: those of labels, of logits, of grids, of embeddings, each by name."""
    found = [name for name in losses.__all__ if hasattr(getattr(losses, name), "paper")]

    def place(name: str) -> tuple[bool, bool, bool, str]:
        needs = getattr(losses, name)().needs
        return needs.teacher, bool(needs.student_layers), needs.embedding, name.lower()

    return sorted(found, key=place)


def table(width: int) -> RenderableType:
    """One row a loss: what it reads, what it adds, its default weight and its paper."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("loss", style="cyan", no_wrap=True)
    shown.add_column("reads", overflow="fold")
    shown.add_column("weight", justify="right")
    shown.add_column("adds", justify="right")
    shown.add_column("paper", overflow="fold")
    for name in names():
        loss = getattr(losses, name)()
        paper = type(loss).paper
        if width < ENOUGH_FOR_AUTHORS:
            paper = " ".join(re.findall(r"arXiv:(\S+?)(?:[;,)]|$| )", paper))
        shown.add_row(name, reads(loss.needs), f"{loss.weight:g}", _count(parameters(loss)), escape(paper))
    notes = (
        "adds: parameters that train with the student and are not exported, for a ViT-Ti taught by a ViT-S.\n"
        "One in full, with its options, formula and paper: python -m distill losses OFA"
    )
    return Group(shown, Text(notes, style="dim"))


def page(name: str) -> RenderableType:
    """One loss in full: what it does, what it reads, every option, and the function that does the arithmetic.

    ValueError if there is none of that name.
    """
    known = {known.lower(): known for known in names()}
    if name.lower() not in known:
        initials = {"".join(filter(str.isupper, full)).lower(): low for low, full in known.items()}
        near = [low for low in known if low.startswith(name.lower())] or (
            [initials[name.lower()]]
            if name.lower() in initials
            else difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
        )
        hint = f"the nearest is {known[near[0]]}" if near else f"they are {', '.join(known.values())}"
        raise ValueError(f"there is no loss '{name}'; {hint}")
    kind = getattr(losses, known[name.lower()])
    loss = kind()
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="cyan", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("paper", escape(kind.paper))
    facts.add_row("reads", escape(loss.needs.reads()))
    if loss.needs.images > 1:
        facts.add_row("batch", f"{loss.needs.images} images or more at once")
    if parameters(loss):
        facts.add_row("adds", f"{_count(parameters(loss))} parameters for a ViT-Ti taught by a ViT-S, not exported")
    described = docstring_parser.parse_from_object(kind)
    text = Text(_flowing("\n\n".join(filter(None, (described.short_description, described.long_description)))))
    parts: list[RenderableType] = [Text(kind.__name__, style="bold"), text, Text(), facts, Text()]
    parts.append(_options(kind, described))
    for function in kind.functions:
        signature = f"distill.losses.{function.__name__}{inspect.signature(function)}".replace("'", "")
        parts += [Text(), Text(signature, style="cyan"), _described(function)]
    return Group(*parts)


def reads(needs: Needs) -> str:
    """What a loss reads, in a few words."""
    kinds = {
        "logits": needs.head is not None or needs.teacher_logits,
        "grids": bool(needs.student_layers),
        "embedding": needs.embedding,
        "labels": needs.labels,
        "images together": needs.couples,
    }
    return ", ".join(kind for kind, read in kinds.items() if read)


def parameters(loss: Any) -> int:
    """Parameters that a loss adds to a ViT-Ti taught by a ViT-S."""
    with torch.device("meta"):
        bound = loss.bind(STUDENT, TEACHER, IMAGES) if loss.needs.address else loss.bind(STUDENT, TEACHER)
    if not isinstance(bound, torch.nn.Module):
        return 0
    return sum(parameter.numel() for parameter in bound.parameters())


def _options(kind: type, described: docstring_parser.Docstring) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("option", style="cyan", no_wrap=True)
    shown.add_column("default", overflow="fold")
    shown.add_column("meaning", overflow="fold")
    meaning = {param.arg_name: param.description for param in described.params}
    for option in fields(kind):
        assert option.default is not MISSING
        default = option.default
        if option.name == "schedule":
            default = f"{default.name} over {default.over:g}" if default.name != "constant" else default.name
        shown.add_row(option.name, escape(str(default)), escape(meaning.get(option.name) or ""))
    return shown


def _described(function: Any) -> Padding:
    return Padding(Text(_flowing(inspect.getdoc(function) or "")), (0, 0, 0, 4))


def _flowing(text: str) -> str:
    """Paragraphs without the line breaks of the source, so that they fill any window."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _count(parameters: int) -> str:
    if parameters >= 1e6:
        return f"{parameters / 1e6:.2f} M"
    return f"{parameters / 1e3:.0f} k" if parameters else "0"
