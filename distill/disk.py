"""The disk: flushed before it is relied on, replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk: without it a power cut can lose them."""
    if path.is_dir() and os.name != "posix":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_text(path: Path, text: str) -> None:
    """Write a text file aside, flush it and rename it, so that a reader never sees half of it."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        aside.write_text(text, encoding="utf-8")
        flush(aside)
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)  # on a full disk half a file is in the way of everything
        raise
    flush(path.parent)
