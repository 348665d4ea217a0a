"""The lock on a run folder: one run at a time writes into it."""

from __future__ import annotations

import errno
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE = ".lock"
_HELD = {errno.EACCES, errno.EAGAIN}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder. ValueError, naming the process, if another one holds it.

    The system lets go of the lock when the process ends, however it ends, so that none is ever left behind. Loader
    processes, which are copies of this one, do not hold it. Where a disk has no locks, nothing is held.
    """
    # A second handle on the file in this process would give the lock away as it is closed, so there is only this one.
    handle = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if _take(handle):
            owner = {"host": platform.node(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(owner).encode(), 0)
        else:
            raise ValueError(f"a run in {folder} is under way ({_owner(handle)}); wait for it, or choose another --out")
        yield
    finally:
        os.close(handle)


def _take(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _HELD
    return True


def _owner(handle: int) -> str:
    try:
        owner = json.loads(os.pread(handle, 4096, 0))
        return f"process {int(owner['process'])} on {owner['host']!s:.100}, since {owner['since']!s:.30}"
    except (ValueError, KeyError, TypeError):
        return "it has only just begun"
