"""`python -m distill predict`: what a model sees in your images."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from distill.compare.options import OnnxInput

if TYPE_CHECKING:
    from rich.table import Table

    from distill.predictions import Seen

WIDE = 90
"""Columns of a window with room for bars."""


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Show what a model sees in images: its likeliest classes and their probabilities.

    Images are prepared as for its validation in training. One that cannot be read is named on stderr and the rest go
    on; the exit code is 1 then.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run folder, whose student is meant, a timm name, a timm folder (a student's too) or an ONNX file."""
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGES ...")]
    """Files, folders (searched at any depth) and quoted globs such as 'photos/**/*.jpg'."""
    top_k: int = 5
    """Classes to show of each image."""
    batch_size: int = 64
    """Images in a forward."""
    onnx: OnnxInput = field(default_factory=OnnxInput)
    json: bool = False
    """One JSON object a line instead of a table: {"image", "top": [{"class", "name", "probability", "logit"}]}."""

    def __call__(self) -> None:
        for name in ("top_k", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; use 1 or more")
        paths = image_paths(self.images)
        from accelerate import Accelerator

        from distill.compare import named
        from distill.compare.classes import own_names
        from distill.predictions import predictions

        accelerator = Accelerator()
        if not accelerator.is_main_process:  # one is enough
            return
        model = named.load_one(self.model, accelerator, onnx=self.onnx)
        seen = predictions(model, accelerator.device, paths, batch_size=self.batch_size, top_k=self.top_k)
        names = own_names(model)
        if self.json:
            broken = _write(_progress(seen, len(paths)), names)
        else:
            broken = _show(_progress(seen, len(paths)), _spoken(names), paths)
        if broken:
            print(f"{broken:,} of {len(paths):,} image{'s' * (len(paths) > 1)} could not be read", file=sys.stderr)
            sys.exit(1)


def image_paths(named: Sequence[str]) -> list[str]:
    """The files behind names of files, folders and globs, each once, in order. ValueError if there is nothing."""
    from glob import glob, has_magic

    found: list[str] = []
    for name in named:
        matches = sorted(glob(name, recursive=True)) if has_magic(name) and not Path(name).exists() else [name]
        files = [file for match in matches for file in _files(match)]
        if not files:
            what = "holds no images" if Path(name).is_dir() else "matches no image"
            raise ValueError(f"{name} {what}; name image files, or folders that have some")
        found += files
    if not found:
        raise ValueError("no image was named; name files, folders or a glob such as 'photos/*.jpg'")
    return list(dict.fromkeys(found))


def _files(match: str) -> list[str]:
    from distill.data import image_files

    return list(image_files(match)[0]) if Path(match).is_dir() else [match]


def _progress(seen: Iterable[Seen], total: int) -> Iterable[Seen]:
    """A bar on the terminal for answers that go elsewhere; where they are shown, they are the progress."""
    if sys.stdout.isatty() or not sys.stderr.isatty():
        return seen
    from rich.console import Console
    from rich.progress import track

    return track(seen, "images", total, console=Console(stderr=True), transient=True)


def _write(seen: Iterable[Seen], names: Sequence[str]) -> int:
    broken = 0
    for image in seen:
        if image.error is not None:
            broken += 1
            print(f"error: {image.error}", file=sys.stderr)
            continue
        top = [
            {
                "class": index,
                "name": names[index] if names else None,
                "probability": round(probability, 6),
                "logit": round(logit, 6),
            }
            for index, probability, logit in image.top
        ]
        # A file's name need be no text; what cannot be printed is spelt out.
        odd = not image.image.isprintable()
        print(json.dumps({"image": image.image, "top": top}, ensure_ascii=odd))
    return broken


def _show(seen: Iterable[Seen], names: Sequence[str], paths: Sequence[str]) -> int:
    from rich.text import Text

    from distill.console import Console
    from distill.data.bad import printable

    console, broken, header = Console().rich, 0, True
    longest = max(len(printable(path)) for path in paths)
    beside = longest <= console.width * 9 // 20
    for image in seen:
        if image.error is not None:
            broken += 1
            print(f"error: {image.error}", file=sys.stderr)
            continue
        if not beside:  # in two lines it could not be copied
            console.print(Text(printable(image.image)), overflow="ignore", crop=False, no_wrap=True)
        console.print(_table(image, names, console.width, longest if beside else 0, header and beside))
        header = False
    return broken


def _table(image: Seen, names: Sequence[str], width: int, longest: int, header: bool) -> Table:
    """One image. Every table of a command has the same columns, so that images can be shown as they are done.

    longest: characters of the longest path that is to stand beside the classes; 0: none does.
    """
    from rich.table import Table
    from rich.text import Text

    from distill.data.bad import printable

    bar = 24 if width >= WIDE else 0
    path = max(longest, len("image")) if longest else 0
    room = width - path - bar - len("100.0 %") - 2 * 3
    called = max(min(max(map(len, names), default=len("class 99999")), room), len("class"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=header)
    table.add_column("image", width=path, no_wrap=True)
    table.add_column("class", width=called, no_wrap=True, overflow="ellipsis")
    table.add_column("", width=len("100.0 %"), justify="right", no_wrap=True)
    if bar:
        table.add_column("", width=bar, style="cyan", no_wrap=True)
    lines = [(names[index] if names else f"class {index}", p) for index, p, _ in image.top]
    cells = (
        Text(printable(image.image) if longest else ""),  # a path or a name is a user's text and no markup
        Text("\n").join(Text(" ".join(name.split()), "bold" * (n == 0)) for n, (name, _) in enumerate(lines)),
        Text("\n".join(f"{100 * p:.1f} %" for _, p in lines)),
        Text("\n".join("━" * round(p * bar) for _, p in lines)),
    )
    table.add_row(*cells[: len(table.columns)])
    return table


def _spoken(names: Sequence[str]) -> list[str]:
    """Names as people know them: synsets of ImageNet become what they stand for."""
    if not any(re.fullmatch(r"n\d{8}", name) for name in names):
        return list(names)
    from timm.data.imagenet_info import ImageNetInfo

    meanings: Any = ImageNetInfo("imagenet-22k").label_descriptions(as_dict=True)
    return [meanings.get(name, name) for name in names]
