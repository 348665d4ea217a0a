"""The C library's allocator on a CPU: the memory that one step frees is kept for the next one."""

from __future__ import annotations

import ctypes
import platform

# glibc's names for mallopt, from malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 2**30  # bytes; a larger block goes back to the system at once
NEVER = 2**31 - 1
DEFAULT_MMAP, DEFAULT_TRIM = 2**25, 2**26  # what glibc's own thresholds grow to by themselves


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed; whether it did. Elsewhere nothing happens.

    By default it gives large blocks back to the system, and a training step takes the same blocks again: each of their
    pages is cleared and mapped anew, 3,000 to 17,000 of them in a step of a ViT-Ti on 32 images of 96 pixels.
    """
    return _set(LARGEST_KEPT, NEVER)


def give_freed_memory_back() -> bool:
    """Undo it: what is kept goes back, and the thresholds are those that glibc comes to by itself."""
    done = _set(DEFAULT_MMAP, DEFAULT_TRIM)
    trim()
    return done


def trim() -> None:
    """Give back what is free now, between two stages of a run; what later ones free is kept or not as before."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _set(mmap_threshold: int, trim_threshold: int) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    done = libc.mallopt(MMAP_THRESHOLD, mmap_threshold) and libc.mallopt(TRIM_THRESHOLD, trim_threshold)
    return bool(done)
