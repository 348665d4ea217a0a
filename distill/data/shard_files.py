"""Shards on this disk or in an object store: their sizes and versions, and whole copies in a bounded cache."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.masked import is_masked, without_secrets

STORES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
}


@dataclass(frozen=True)
class Shard:
    """One shard: its URL or path, its bytes, and what changes when its content does."""

    url: str
    num_bytes: int
    version: str

    @property
    def is_local(self) -> bool:
        return "://" not in self.url

    @property
    def key(self) -> str:
        """A name for what is kept of it."""
        return hashlib.sha256(f"{self.url}\0{self.num_bytes}\0{self.version}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class ShardCache:
    """Whole copies of remote shards, at most `most_bytes` of them; the ones not read for longest go first.

    Processes of one machine share the folder: a shard is fetched once.
    """

    folder: Path
    most_bytes: int

    def local(self, shard: Shard) -> Path:
        """The shard as a file. ValueError if it cannot be fetched, or if the cache is too small for it."""
        from filelock import FileLock

        if shard.is_local:
            return Path(shard.url)
        path = self.folder / f"{shard.key}.tar"
        if self._touch(path):
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f"{shard.key}.lock"):
            if not self._touch(path):
                self._fetch(shard, path)
        return path

    def _fetch(self, shard: Shard, path: Path) -> None:
        from filelock import FileLock

        aside = path.with_suffix(".partial")
        try:
            with FileLock(self.folder / "room.lock"):
                self._make_room(shard)
                with aside.open("wb") as file:
                    file.truncate(shard.num_bytes)  # so that others who make room count it
            system, place = _system(shard.url)
            with system.open(place, "rb") as source, aside.open("r+b") as file:
                shutil.copyfileobj(source, file, 2**20)
                copied = file.tell()
            if copied != shard.num_bytes:
                raise ValueError(f"{shard.url} has {copied} bytes and had {shard.num_bytes}; was it changed? Run again")
            os.replace(aside, path)
        except ValueError:
            raise
        except Exception as error:  # each store has errors of its own
            raise ValueError(f"{shard.url} cannot be fetched into {self.folder} ({_reason(error)})") from None
        finally:
            aside.unlink(missing_ok=True)

    def _make_room(self, shard: Shard) -> None:
        if shard.num_bytes > self.most_bytes:
            raise ValueError(
                f"{shard.url} has {shard.num_bytes / 2**30:.1f} GiB but the cache {self.most_bytes / 2**30:.1f}; "
                "use a larger --data.cache-gib"
            )
        kept = sorted((status.st_mtime, status.st_size, file) for file, status in _statuses(self.folder, "*.tar"))
        taken = sum(size for _, size, _ in kept)
        taken += sum(status.st_size for _, status in _statuses(self.folder, "*.partial"))
        for _, size, file in kept:
            if taken + shard.num_bytes <= self.most_bytes:
                return
            file.unlink(missing_ok=True)  # one who has it open reads on
            taken -= size

    def _touch(self, path: Path) -> bool:
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True


def expand(patterns: Sequence[str], option: str) -> tuple[str, ...]:
    """The URLs and absolute paths that brace patterns such as train-{000..099}.tar stand for, in order."""
    try:
        from braceexpand import braceexpand
    except ImportError:
        raise ValueError("shards are read with braceexpand and fsspec; pip install 'distill-vision[shards]'") from None

    urls = []
    for pattern in patterns:
        try:
            found = list(braceexpand(pattern))
        except ValueError as error:
            raise ValueError(
                f"{pattern} is no brace pattern ({error}); use one such as train-{{000..099}}.tar"
            ) from None
        for url in found:
            if is_masked(url):
                raise ValueError(
                    f"{url} was kept without its secret; name the images with --data or --data-from, "
                    "or the shards in full"
                )
            if url.startswith("pipe:"):
                raise ValueError(f"{url} would run a command; use a path or a URL such as s3://bucket/{{000..099}}.tar")
            urls.append(absolute(url))
    if not urls:
        raise ValueError(f"no shards were named; use {option} with paths or URLs such as shards/{{000..099}}.tar")
    if len(set(urls)) < len(urls):
        twice = next(url for url in urls if urls.count(url) > 1)
        raise ValueError(f"the shard {twice} is named twice in {option}; name it once")
    return tuple(urls)


def absolute(url: str) -> str:
    """A path or pattern of paths from the root; a URL as it is."""
    url = url.removeprefix("file://")
    return url if "://" in url or url.startswith("pipe:") else os.path.abspath(url)


def look(urls: Sequence[str]) -> list[Shard]:
    """The shards with their sizes and versions. ValueError if one is not there."""
    listed: dict[str, dict[str, Any]] = {}
    shards = []
    for url in urls:
        if "://" not in url:
            try:
                status = os.stat(url)
            except OSError as error:
                raise ValueError(
                    f"the shard {url} cannot be read ({error.strerror}); name those that are there"
                ) from None
            shards.append(Shard(url, status.st_size, str(status.st_mtime_ns)))
            continue
        folder = url.rpartition("/")[0]
        if folder not in listed:
            listed[folder] = _listing(folder)
        place = _system(url)[1]
        shards.append(_shard(url, listed[folder].get(place.strip("/")) or _info(url)))
    return shards


def _shard(url: str, info: dict[str, Any]) -> Shard:
    if not info.get("size"):
        raise ValueError(f"the store does not say how large {url} is; copy the shards to a disk or another store")
    version = next(
        (info[name] for name in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created") if name in info), ""
    )
    return Shard(url, int(info["size"]), str(version))


def _listing(folder: str) -> dict[str, dict[str, Any]]:
    """What one question to the store says of all shards in a folder; {} where it lists no folders."""
    try:
        system, place = _system(f"{folder}/")
        return {str(entry["name"]).strip("/"): entry for entry in system.ls(place, detail=True)}
    except Exception:  # each store has errors of its own; then each shard is asked about
        return {}


def _info(url: str) -> dict[str, Any]:
    try:
        system, place = _system(url)
        return system.info(place)
    except ValueError:
        raise
    except Exception as error:  # each store has errors of its own
        raise ValueError(f"the shard {url} cannot be reached ({_reason(error)}); name those that are there") from None


def _statuses(folder: Path, pattern: str) -> Iterator[tuple[Path, os.stat_result]]:
    for file in folder.glob(pattern):
        with suppress(FileNotFoundError):  # one that was fetched, or made room for, meanwhile
            yield file, file.stat()


def _reason(error: Exception) -> str:
    # Before it is cut: half of a secret is one.
    return " ".join(without_secrets(str(error)).split())[:200] or type(error).__name__


def _system(url: str) -> tuple[Any, str]:
    import fsspec

    scheme = url.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError:
        raise ValueError(f"{url} is read with {STORES.get(scheme, 'a package')}; pip install it") from None
    except ValueError as error:
        raise ValueError(
            f"{url} names no store that fsspec knows ({error}); use s3://, gs://, https:// or a path"
        ) from None
