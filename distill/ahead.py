"""One item ahead: what the next micro-batch needs is begun before this one is over, on a CUDA stream of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.options import RunOptions
    from teachers.frozen_ensemble import AnyFrozen

T = TypeVar("T")

ON_ONE_STREAM = ("eager", "inductor")  # runtimes that queue all they do on torch's current stream


class Ahead(Generic[T]):
    """Hands out `count` items of an iterator, of which `look` begins the next one early.

    streams: `torch.cuda`, or what has its `Stream`, `stream` and `current_stream`; None: all is done in order. With
    streams, an item that was begun early is computed on a side stream, beside what is queued on the current one:

    - The side stream waits for what was queued before the item at hand was given out. So it is at most one item ahead,
      and what others did until then, such as an evaluation, is over.
    - The current stream waits for the side stream before an item is given out, and in `settle`.
    - The memory of an item belongs to the side stream, which would use it again as soon as Python lets go of it. Each
      tensor is marked as used by the current stream, whose queue is then waited for.

    An error in making an item is raised when the item is taken, as without looking ahead.
    """

    def __init__(self, items: Iterator[T], count: int, streams: Any = None) -> None:
        self._items, self._left, self._streams = items, count, streams
        self._side: Any = streams.Stream() if streams else None
        self._given: Any = None  # the moment in the current stream at which an item was last given out
        self._begun: list[T] = []
        self._error: Exception | None = None

    def take(self) -> T:
        """The next item. What is queued from here on, on the current stream, comes after all that made it."""
        assert self._left
        self._left -= 1
        if self._error is not None:
            raise self._error
        if self._begun:
            item = self._begun.pop()
            self.settle()
            self._mark(item)
        else:
            item = next(self._items)
        if self._streams:
            self._given = self._streams.current_stream().record_event()
        return item

    def look(self) -> None:
        """Begin the item after the one that was taken last, if there is one, without waiting for the device."""
        if not self._left or self._begun or self._error is not None:
            return
        with self._beside():
            try:
                self._begun.append(next(self._items))
            except Exception as error:
                self._error = error

    def settle(self) -> None:
        """Let the current stream wait for what was begun: before others use what the items are made with."""
        if self._streams:
            self._streams.current_stream().wait_stream(self._side)

    def _beside(self) -> AbstractContextManager[Any]:
        if not self._streams:
            return nullcontext()
        assert self._given is not None, "the first item is not begun early"
        self._side.wait_event(self._given)
        return self._streams.stream(self._side)

    def _mark(self, item: T) -> None:
        if self._streams:
            stream = self._streams.current_stream()
            for tensor in tensors_in(item):
                if tensor.is_cuda:
                    tensor.record_stream(stream)


def tensors_in(value: object) -> Iterator[Tensor]:
    """Every tensor in dataclasses, mappings, tuples and lists, however deep."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_in(part)


def check(options: RunOptions, accelerator: Accelerator) -> None:
    """ValueError if the teacher cannot run beside the student as the run was launched."""
    from accelerate.utils import DistributedType

    if options.overlap and accelerator.distributed_type == DistributedType.FSDP:
        raise ValueError(
            "--overlap is not for FSDP, which divides teacher and student: exchanging weights for both at once is "
            "untried, and one could wait for the other; leave out --overlap, or use recipes/launch/one_node.yaml"
        )


def streams_for(teacher: AnyFrozen | None, device: torch.device, say: Callable[[str], object]) -> Any:
    """What `Ahead` takes for its streams. None where there are none, and then `say` is told so in a line."""
    if device.type != "cuda":
        say(f"--overlap: there are no streams on {device.type}, so teacher and student run one after the other")
        return None
    for member in getattr(teacher, "members", [teacher]) if teacher else ():
        if not member.runtime_note.startswith(ON_ONE_STREAM):
            how = member.runtime_note
            say(f"--overlap: '{member.name}' runs on {how}, which is not known to keep to a stream; it waits its turn")
            return None
    return torch.cuda
