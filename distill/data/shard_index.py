"""Where the samples of a tar shard begin: found once, and kept."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from distill.data.bad import printable

_NAME = re.compile(r"^((?:.*/)?[^./]+)\.([^/]*)$")  # as webdataset divides a member: key, then all behind the dot
MOST_LABEL_BYTES = 1024


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The samples of one shard in its order: where their images are [N, 2] (offset, bytes), and their labels [N].

    A label is a word: a number or the name of a class; "" where there is none.
    """

    places: np.ndarray
    labels: np.ndarray

    def save(self, path: Path) -> None:
        """Write aside and rename, so that nobody reads half of it."""
        aside = path.with_name(f".{path.name}.{os.getpid()}.npz")
        np.savez(aside, places=self.places, labels=self.labels)
        os.replace(aside, path)

    @classmethod
    def load(cls, path: Path) -> ShardIndex | None:
        """What `save` wrote; None where that is missing or torn."""
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(file["places"], file["labels"])
        except (OSError, ValueError, KeyError, EOFError):
            return None


def index_shard(tar: Path, name: str, image_keys: tuple[str, ...], label_key: str | None) -> ShardIndex:
    """Read the headers of a tar file, and its labels. Nothing is unpacked, and no member's name becomes a path.

    ValueError, which names shard and sample, if it is no plain tar or a sample has no image or label.
    """
    places, labels = [], []
    try:
        with tarfile.open(tar, "r:") as file, tar.open("rb") as raw:
            size = tar.stat().st_size
            for key, members in _samples(file):
                image = next((members[kind] for kind in image_keys if kind in members), None)
                if image is None:
                    kinds = ", ".join(image_keys)
                    raise ValueError(
                        f"sample {printable(key)} of {name} has {', '.join(members)} but no image ({kinds}); "
                        "name what the images end in with --data.image-keys"
                    )
                if any(member.offset_data + member.size > size for member in members.values()):
                    raise ValueError(f"{name} ends in the middle of sample {printable(key)}; fetch it again")
                places.append((image.offset_data, image.size))
                labels.append(_label(raw, members, key, name, label_key))
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{name} is no plain tar file ({error}); shards are read by offset, so unpack .gz or .zst first"
        ) from None
    if not places:
        raise ValueError(f"{name} holds no samples; leave it out")
    return ShardIndex(np.array(places, dtype=np.int64), np.array(labels))


def member_name(tar: Path, offset: int) -> str:
    """The name of the member whose bytes begin at an offset, for a message."""
    with tarfile.open(tar, "r:") as file:
        return next((printable(member.name) for member in file if member.offset_data == offset), f"offset {offset}")


def _samples(file: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """(key, members by what they end in): neighbours with the same key are one sample."""

    def named() -> Iterator[tuple[str, str, tarfile.TarInfo]]:
        for member in file:
            if member.isreg() and (parts := _NAME.match(member.name)):
                yield parts[1], parts[2].lower(), member

    for key, members in groupby(named(), lambda found: found[0]):
        yield key, {kind: member for _, kind, member in members}


def _label(raw, members: dict[str, tarfile.TarInfo], key: str, name: str, label_key: str | None) -> str:
    if label_key is None:
        return ""
    member = members.get(label_key)
    if member is None:
        raise ValueError(
            f"sample {printable(key)} of {name} has {', '.join(members)} but no label ({label_key}); "
            "name what the labels end in with --data.label-key, or learn from the teacher alone with None"
        )
    raw.seek(member.offset_data)
    return raw.read(min(member.size, MOST_LABEL_BYTES)).decode("utf-8", "replace").strip()
