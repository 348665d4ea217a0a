"""What a model sees in image files: decoded ahead by threads, answered batch by batch, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distill.compare.candidate import Candidate
    from distill.compare.terms import Terms


@dataclass(frozen=True)
class Seen:
    """The likeliest classes of one image, the likeliest first: indices, probabilities and logits; or its error."""

    image: str
    top: tuple[tuple[int, float, float], ...] = ()
    error: str | None = None


def predictions(
    model: Candidate, device: torch.device, paths: Sequence[str], *, batch_size: int, top_k: int
) -> Iterator[Seen]:
    """What the model, which is on that device, sees in each image, in order. At most two batches are in memory."""
    import torch

    from distill.loader import cores

    waiting: list[tuple[str, Tensor | str]] = []
    with ThreadPoolExecutor(cores()) as pool, torch.inference_mode():
        for path, view in _views(pool, model.preprocess, paths, batch_size):
            waiting.append((path, view))
            if len(waiting) == batch_size:
                yield from _answer(model, device, waiting, top_k)
                waiting = []
        yield from _answer(model, device, waiting, top_k)


def _views(
    pool: ThreadPoolExecutor, transform: Terms, paths: Sequence[str], ahead: int
) -> Iterator[tuple[str, Tensor | str]]:
    started: deque[tuple[str, Future[Tensor | str]]] = deque()
    for path in paths:
        started.append((path, pool.submit(_view, path, transform)))
        if len(started) > ahead:
            done, view = started.popleft()
            yield done, view.result()
    for path, view in started:
        yield path, view.result()


def _view(path: str, transform: Terms) -> Tensor | str:
    """The view of an image [C, h, w], or why there is none."""
    from distill.data import BadImage, open_image

    try:
        return transform(open_image(path))
    except BadImage as error:
        return error.line
    except Exception as error:  # a file that is gone, or a picture of a shape that cannot be resized
        text = " ".join(str(error).split()) or type(error).__name__
        return text if isinstance(error, ValueError) else f"{path} cannot be prepared ({text})"


def _answer(
    model: Candidate, device: torch.device, batch: Sequence[tuple[str, Tensor | str]], top_k: int
) -> Iterator[Seen]:
    import torch

    views = [view for _, view in batch if not isinstance(view, str)]
    rows: Iterator[Any] = iter(())
    if views:
        logits = model.logits(torch.stack(views).to(device)).float().cpu()
        values, classes = logits.double().softmax(-1).topk(min(top_k, logits.shape[1]))
        rows = zip(classes.tolist(), values.tolist(), logits.gather(1, classes).tolist(), strict=True)
    for path, view in batch:
        if isinstance(view, str):
            yield Seen(path, error=view)
        else:
            yield Seen(path, tuple(zip(*next(rows), strict=True)))
