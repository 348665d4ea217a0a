"""Writing: every shard aside, flushed to the disk and renamed, so that a file under its name is whole."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from distill.loader import Batch
from distill.saved.manifest import Manifest, Shard


def missing(manifest: Manifest, folder: Path) -> list[Shard]:
    """The shards that are not there yet."""
    row_bytes = manifest.answers.bytes_per_image
    return [shard for shard in manifest.shards(folder) if not shard.is_whole(row_bytes)]


def check_room(shards: Sequence[Shard], row_bytes: int, folder: Path) -> None:
    """ValueError if the disk of the folder, which may still have to be made, has not the room for these shards."""
    needed = sum(shard.rows for shard in shards) * row_bytes
    if needed > free(folder):
        raise ValueError(
            f"the outputs take {size(needed)} but the disk of {folder} has {size(free(folder))} left; "
            "use a smaller --k, --epochs or --dtype, or another disk with --out"
        )


def free(folder: Path) -> int:
    """Bytes left on the disk of a folder, which may still have to be made."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(there).free


def write_shards(shards: Sequence[Shard], batches: Iterator[Batch], rows: Callable[[Batch], np.ndarray]) -> None:
    """Write shards, in this order, from batches that cover their positions, in this order."""
    for shard in shards:
        shard.path.parent.mkdir(parents=True, exist_ok=True)
        # Another process, or a leftover of one that was killed, has another name.
        aside = shard.path.with_name(f".{shard.path.name}.{platform.node()}.{os.getpid()}.partial")
        digest, done = hashlib.sha256(), 0
        try:
            with aside.open("wb") as file:
                while done < shard.rows:
                    batch = next(batches)
                    assert (batch.epoch, batch.position) == (shard.epoch, shard.start + done)
                    data = rows(batch).tobytes()
                    file.write(data)
                    digest.update(data)
                    done += len(batch.index)
                _flush(file)
            assert done == shard.rows
            # The checksum is there before the shard is; `sha256sum -c` reads it too.
            _write_text(shard.checksum, f"{digest.hexdigest()}  {shard.path.name}\n", aside.with_suffix(".checksum"))
            aside.replace(shard.path)
        finally:
            aside.unlink(missing_ok=True)
        _flush_folder(shard.path.parent)


def clear(folder: Path) -> None:
    """Remove what killed processes left aside; for when nobody writes any more."""
    for leftover in (*folder.glob("epoch_*/.shard_*.partial"), *folder.glob("epoch_*/.shard_*.checksum")):
        leftover.unlink(missing_ok=True)


def size(num_bytes: float) -> str:
    """Bytes in the unit that a person would use, of 1,000 each, as disks are sold."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}" if unit != "bytes" else f"{num_bytes} bytes"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} TB"


def _write_text(path: Path, text: str, aside: Path) -> None:
    with aside.open("wb") as file:
        file.write(text.encode())
        _flush(file)
    aside.replace(path)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    # The renames themselves: without this a power cut can lose them.
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
