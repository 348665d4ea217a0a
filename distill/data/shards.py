"""WebDataset's tar shards, read by shard and position: sets that no disk holds."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distill.data.bad import BadImages, OnBad, readable
from distill.data.contract import UNLABELLED, Images
from distill.data.decode import open_image
from distill.data.shard_files import Shard, ShardCache, absolute, expand, look
from distill.data.shard_index import ShardIndex, index_shard, member_name
from distill.data.shard_order import GroupedOrder

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_KEYS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "img")


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Tar shards in WebDataset's layout, on a disk or in an object store.

    Each shard is indexed once; the index is kept in $DISTILL_CACHE/shards or ~/.cache/distill/shards. Shards of a
    store are copied whole into `cache`, where the ones not read for longest make room.
    """

    train_urls: tuple[str, ...]
    """Paths or URLs of the shards to train on; brace patterns such as s3://bucket/train-{000..099}.tar."""
    val_urls: tuple[str, ...]
    """The same of the shards to validate on."""
    classes_file: str | None = None
    """Text file with a class name a line, in the order of the labels; None: named by their numbers."""
    num_classes: int | None = None
    """Number of classes where no classes_file names them; None: the largest training label and one."""
    image_keys: tuple[str, ...] = IMAGE_KEYS
    """What the name of an image may end in, behind the first dot."""
    label_key: str | None = "cls"
    """What the name of a label ends in: a text file with the number or the name of the class. None: no labels."""
    group_shards: int = 8
    """Shards that are mixed with each other at a time. More mix better, and are in the cache at once."""
    cache: str | None = None
    """Folder for copies of remote shards; None: in the index's folder."""
    cache_gib: float = 50.0
    """Most GiB of these copies, for this machine."""
    on_bad: OnBad = "error"
    """An image that cannot be read ends the run, or is listed in bad_images.txt and replaced by the next one."""

    def __post_init__(self) -> None:
        for name in ("classes_file", "cache"):
            if getattr(self, name) is not None:  # recipe.json is read from other folders
                object.__setattr__(self, name, str(Path(getattr(self, name)).absolute()))
        for name in ("train_urls", "val_urls"):
            object.__setattr__(self, name, tuple(map(absolute, getattr(self, name))))

    @property
    def classes(self) -> tuple[str, ...]:
        if self.label_key is None:
            return ()
        if self.classes_file is not None:
            return _lines(self.classes_file)
        count = self.num_classes
        if count is None:
            shards = look(expand(self.train_urls, "--data.train-urls"))
            count = 1 + max(_largest(index, shard) for shard, index in self._indexed(shards))
        return tuple(str(number) for number in range(count))

    def train(self) -> ShardImages:
        return self._open(self.train_urls, "--data.train-urls")

    def val(self) -> ShardImages:
        return self._open(self.val_urls, "--data.val-urls")

    def fingerprint(self) -> str:
        shards = look(expand(self.train_urls, "--data.train-urls")) + look(expand(self.val_urls, "--data.val-urls"))
        parts = [shard.key for shard in shards] + [self.image_keys, self.label_key, self.group_shards, self.classes]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def notes(self, train: Images, val: Images) -> tuple[str, ...]:
        """How many shards there are, and where the copies of remote ones lie."""
        if not isinstance(train, ShardImages) or not isinstance(val, ShardImages):
            return ()
        lines = [f"{len(train.shards):,} shards to train on, {len(val.shards):,} to validate on"]
        if not all(shard.is_local for shard in (*train.shards, *val.shards)):
            lines.append(f"at most {self.cache_gib:g} GiB of copies in {self._copies().folder}")
        return tuple(lines)

    def _open(self, urls: tuple[str, ...], option: str) -> ShardImages:
        if self.group_shards < 1:
            raise ValueError(f"data.group_shards is {self.group_shards}; use --data.group-shards 1 or more")
        shards = look(expand(urls, option))
        self._check_cache(shards)
        names = {name: label for label, name in enumerate(self.classes)} if self.label_key else None
        counts = []
        for shard, index in self._indexed(shards):
            _numbers(index, shard, names)  # for its error, before the first step
            counts.append(len(index.places))
        return ShardImages(tuple(shards), np.array(counts), self._copies(), self, names, self.on_bad)

    def _indexed(self, shards: Sequence[Shard]) -> Iterator[tuple[Shard, ShardIndex]]:
        from rich.console import Console
        from rich.progress import track

        # A first pass over a large set takes as long as reading it.
        new = any(not self.index_file(shard).is_file() for shard in shards)
        quiet = not new or os.environ.get("RANK", "0") != "0"
        line = Console(stderr=True, quiet=quiet)
        for shard in track(shards, "indexing shards", console=line, disable=quiet):
            yield shard, self.index_of(shard)

    def index_file(self, shard: Shard) -> Path:
        """Where a shard's index is kept."""
        how = hashlib.sha256(json.dumps([self.image_keys, self.label_key]).encode()).hexdigest()[:8]
        return _home() / f"{shard.key}-{how}.npz"

    def index_of(self, shard: Shard) -> ShardIndex:
        """A shard's index, from where it is kept or made now."""
        path = self.index_file(shard)
        if (known := ShardIndex.load(path)) is not None:
            return known
        from filelock import FileLock

        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if (known := ShardIndex.load(path)) is None:
                known = index_shard(self._copies().local(shard), shard.url, self.image_keys, self.label_key)
                known.save(path)
        return known

    def _copies(self) -> ShardCache:
        return ShardCache(Path(self.cache) if self.cache else _home() / "copies", round(self.cache_gib * 2**30))

    def _check_cache(self, shards: Sequence[Shard]) -> None:
        # At the border of two groups, loaders read of both.
        remote = sorted((shard.num_bytes for shard in shards if not shard.is_local), reverse=True)
        needed = sum(remote[: 2 * self.group_shards]) / 2**30
        if needed > self.cache_gib:
            raise ValueError(
                f"two groups of {self.group_shards} shards have {needed:.1f} GiB and the cache holds "
                f"{self.cache_gib:g}; use a larger --data.cache-gib or a smaller --data.group-shards"
            )


@dataclass(frozen=True, eq=False)
class ShardImages:
    """The samples of shards, one shard behind the other; counts [S] of each. Labels by name where `index` has names."""

    shards: tuple[Shard, ...]
    counts: np.ndarray
    copies: ShardCache
    data: Shards
    index: dict[str, int] | None
    on_bad: OnBad = "error"
    bad: BadImages = field(default_factory=BadImages)

    def __len__(self) -> int:
        return int(self.counts.sum())

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return readable(index, len(self), self._read, self.bad if self.on_bad == "skip" else None)

    def order(self, seed: int) -> GroupedOrder:
        """Shards in random order, and samples in random order within each group of shards."""
        return GroupedOrder(self.counts, self.data.group_shards, seed)

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.counts)

    def _read(self, index: int) -> tuple[Image, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard, position = self.shards[number], index - int(self._ends[number] - self.counts[number])
        places, labels = _opened(self, number)
        offset, size = (int(value) for value in places[position])
        data = self._bytes(shard, offset, size)
        try:
            return open_image(BytesIO(data), "?"), int(labels[position])
        except ValueError:
            name = f"{shard.url}: {member_name(self.copies.local(shard), offset)}"
            return open_image(BytesIO(data), name), int(
                labels[position]
            )  # the same error, with the name it takes to find

    def _bytes(self, shard: Shard, offset: int, size: int) -> bytes:
        for last in (False, True):
            path = self.copies.local(shard)
            try:
                # Opened anew each time: an open file's place is shared with the loaders that were forked with it.
                with path.open("rb") as file:
                    file.seek(offset)
                    return file.read(size)
            except FileNotFoundError:  # it made room for another between the two lines
                if last or shard.is_local:
                    raise ValueError(f"the shard {shard.url} was removed; put it back, and run again") from None
        raise AssertionError


@functools.lru_cache(maxsize=64)
def _opened(images: ShardImages, number: int) -> tuple[np.ndarray, np.ndarray]:
    shard = images.shards[number]
    index = images.data.index_of(shard)
    return index.places, _numbers(index, shard, images.index)


def _numbers(found: ShardIndex, shard: Shard, index: dict[str, int] | None) -> np.ndarray:
    """A shard's labels [N] as numbers. ValueError for one that is no class."""
    if index is None:
        return np.full(len(found.places), UNLABELLED)
    classes, names_are_numbers = len(index), any(name.isdecimal() for name in index)
    labels = np.empty(len(found.labels), dtype=np.int64)
    for word in np.unique(found.labels):
        # Where names are numbers, one that is none of them would be told apart from them by chance.
        counted = int(word) if str(word).isdecimal() and not names_are_numbers else classes
        number = index.get(str(word), counted)
        if number >= classes:
            raise ValueError(
                f"{shard.url} has the label {str(word)!a} which is none of {classes} classes; name them with "
                "--data.classes-file, or count them with --data.num-classes"
            )
        labels[found.labels == word] = number
    return labels


def _largest(index: ShardIndex, shard: Shard) -> int:
    words = np.unique(index.labels)
    if not all(str(word).isdecimal() for word in words):
        word = next(str(word) for word in words if not str(word).isdecimal())
        raise ValueError(f"{shard.url} has the label {word!a}, a name; name the classes with --data.classes-file")
    return max(int(word) for word in words)


def _lines(path: str) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text ({error}); name a file with a class a line") from None
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"{path} names {len(names)} classes, {len(set(names))} of them different; use a class a line")
    return names


def _home() -> Path:
    return Path(os.environ.get("DISTILL_CACHE") or "~/.cache/distill").expanduser() / "shards"
