"""What the main process finds out for all of them, and where all wait for each other."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from distill.peers import Peers

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")

_places = count()


def from_main(accelerator: Accelerator, find: Callable[[], T]) -> T:
    """What `find` returns on the main process, on every process; every process waits for it.

    What files look like is asked once: while one process looks, another may already have changed them. A ValueError or
    OSError of `find` is raised on every process, so that all of them end and none waits for one that has gone.
    """
    from accelerate.utils import broadcast_object_list

    found: T | None = None
    error: ValueError | OSError | None = None
    if accelerator.is_main_process:
        try:
            found = find()
        except (ValueError, OSError) as raised:
            error = raised
    if accelerator.num_processes > 1:
        _gather()
        found, error = broadcast_object_list([found, error])
    if error is not None:
        raise error
    return found  # type: ignore[return-value]


def meet(accelerator: Accelerator) -> None:
    """Wait for every process, where one may be at work for longer than torch's timeout after the others."""
    if accelerator.num_processes > 1:
        _gather()
    accelerator.wait_for_everyone()


def _gather() -> None:
    Peers().gather(f"place {next(_places)}")  # the same on all, for all come to all places in one order
