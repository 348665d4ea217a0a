"""What can end a run, each in one line and with an exit code of its own."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from distill.masked import without_secrets
from distill.peers import Peers
from distill.signals import Interrupted

USER, FAILED = 2, 1
"""Exit codes: what a user can mend before the same command makes sense, and what happened to a run."""
FEWER = "use fewer --workers, or 0"
GO_ON = "the same command goes on from the last checkpoint, or from the start"
STAYS = "what was finished stays as it is"


class Failed(RuntimeError):
    """A run cannot go on, for a reason that is said in one line."""


@contextmanager
def in_one_line(place: str, then: str = GO_ON) -> Iterator[None]:
    """End the program as the block fails: one line on one process, an exit code, no traceback but for our own mistakes.

    place: what was being written, for a disk's errors. then: what becomes of it, or what to do, where the cause has
    passed. With DISTILL_TRACEBACK set every error keeps its traceback.
    """
    _overlook_lost_loaders()
    try:
        yield
    except Exception as error:
        _end_loaders()
        if os.environ.get("DISTILL_TRACEBACK"):
            raise
        found = described(error, place, then)
        if found is None and _lost_a_peer(error):
            _end_after_others(then)
        if found is None:
            Peers().say(f"error: a mistake in this program, {type(error).__name__}; its traceback follows")
            raise
        Peers().say(f"error: {found[0]}")
        sys.exit(found[1])
    except Interrupted as interrupted:
        _end_loaders()
        Peers().say(f"stopped: {interrupted.text}")
        sys.exit(interrupted.code)
    except KeyboardInterrupt:
        _end_loaders()
        Peers().say(f"stopped: interrupted; {then}")
        sys.exit(130)


@contextmanager
def until_unheard() -> Iterator[None]:
    """End quietly, with a shell's exit code for it, where a reader such as head has seen enough of what is printed."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush at the end
        sys.exit(128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else FAILED)


def described(error: Exception, place: str = "", then: str = GO_ON) -> tuple[str, int] | None:
    """An error's line and exit code; None if it is none that a run can meet, but a mistake of ours."""
    if isinstance(error, ValueError):
        return one_line(error), USER
    if isinstance(error, Failed):
        return str(error), FAILED
    text = " ".join(_own_words(error).split())
    if type(error).__name__ == "OutOfMemoryError":  # torch's; in training there is more to say about it
        return f"the GPU's memory does not suffice ({text.partition('. ')[0]}); ask for fewer images at once", FAILED
    if _lost_a_loader(error, text):
        return f"a loader process was killed, often for want of memory; {FEWER}, and {then}", FAILED
    if "</torch_" in text or "insufficient shared memory" in text:
        return f"shared memory, such as /dev/shm, has no room for the loaders' images ({text[:120]}); {FEWER}", FAILED
    if isinstance(error, OSError):
        return f"{error.filename or place}: {error.strerror or text}{_way_out(error)}; {then}", FAILED
    # torch's and safetensors' writers have their own words for what a disk refuses.
    if any(words in text for words in ("PytorchStreamWriter", "inline_container", "I/O error", "iostream error")):
        return f"{place} cannot be written ({text[:120]}); {then}", FAILED
    return None


def one_line(error: ValueError) -> str:
    """What a user's error says."""
    # A loader process hands its error over with a traceback around it; the last line is ours.
    return without_secrets(re.sub(r"^(ValueError|distill\.[\w.]+): ", "", _own_words(error)))


def _own_words(error: Exception) -> str:
    text = str(error)
    return text.strip().splitlines()[-1] if text.startswith("Caught") else text


def _lost_a_loader(error: Exception, text: str) -> bool:
    if "DataLoader worker" in text and ("killed by signal" in text or "exited unexpectedly" in text):
        return True
    # Killed while it hands a batch over, it leaves a connection that breaks.
    files = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))
    waited = any(file.endswith(os.path.join("utils", "data", "dataloader.py")) for file in files)
    return waited and isinstance(error, (EOFError, ConnectionError, FileNotFoundError))


def _overlook_lost_loaders() -> None:
    """Until the process ends, Python prints no traceback of a lost loader's error that it ignores.

    torch raises that error from a signal handler, wherever the main process is. Within a hook of os.fork, as the next
    loader process is begun, and within a finaliser Python ignores it; who waits for the lost loader meets it again.
    """
    if getattr(sys.unraisablehook, "func", None) is not _ignored:
        sys.unraisablehook = partial(_ignored, sys.unraisablehook)


def _ignored(say: Any, unraisable: Any) -> None:
    error = unraisable.exc_value
    lost = isinstance(error, RuntimeError) and _lost_a_loader(error, str(error))
    # The error met the constructor, and the finaliser misses what was not made yet.
    finaliser = getattr(unraisable.object, "__qualname__", "") == "_MultiProcessingDataLoaderIter.__del__"
    half_made = finaliser and isinstance(error, AttributeError)
    if os.environ.get("DISTILL_TRACEBACK") or not (lost or half_made):
        say(unraisable)


def _end_loaders() -> None:
    """End what would otherwise be waited for: loader processes do not heed the signals that a cluster sends to all."""
    if loaders := [child for child in multiprocessing.active_children() if child.daemon]:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's own handler takes their end for one more failure
        for loader in loaders:
            loader.kill()


def _way_out(error: OSError) -> str:
    return {
        errno.ENOSPC: "; make room on that disk",
        errno.EDQUOT: "; make room in your quota",
        errno.EFBIG: "; raise the limit on the size of a file",
        errno.EMFILE: "; raise ulimit -n, or use fewer --workers",
    }.get(error.errno or 0, "")


def _lost_a_peer(error: Exception) -> bool:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return False
    import torch.distributed as dist

    words = ("Connection closed by peer", "Connection reset", "Broken pipe", "gloo", "NCCL", "timed out", "Timed out")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def _end_after_others(then: str) -> None:
    peers = Peers()
    if not peers.have_failed():
        peers.say(f"error: the connection to another process is lost, which was killed or crashed; {then}")
    sys.exit(FAILED)
