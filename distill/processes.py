"""What the main process finds out for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


def from_main(accelerator: Accelerator, find: Callable[[], T]) -> T:
    """What `find` returns on the main process, on every process; every process waits for it.

    What files look like is asked once: while one process looks, another may already have changed them. A ValueError of
    `find` is raised on every process, so that all of them end and none waits for one that has gone.
    """
    from accelerate.utils import broadcast_object_list

    found: T | None = None
    error: ValueError | None = None
    if accelerator.is_main_process:
        try:
            found = find()
        except ValueError as raised:
            error = raised
    if accelerator.num_processes > 1:
        found, error = broadcast_object_list([found, error])
    if error is not None:
        raise error
    return found  # type: ignore[return-value]
