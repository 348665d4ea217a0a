"""What a model costs on this machine: operations, bytes and time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from distill.compare.candidate import Candidate
from distill.compare.peak import peak_bytes, peak_bytes_of_onnx

ROUNDS = 5
FEWEST_ROUNDS = 3
LONG_SECONDS = 60.0
"""After so long, no more than FEWEST_ROUNDS are taken."""
THROUGHPUT_BATCH = 64
LEAST_SECONDS = 0.1
"""What one timing lasts at least, by repeating a short forward, so that the clock's grain does not matter."""


@torch.no_grad()
def costs(candidates: Sequence[Candidate], device: torch.device, said: Callable[[], None] = lambda: None) -> list[Any]:
    """The cost of each candidate. Times are taken in ROUNDS, in each of them of every candidate in turn.

    So a machine that becomes slower meanwhile is as slow for all. said: called after every timing.
    """
    began = time.perf_counter()
    inputs = [{size: _input(candidate, size, device) for size in (1, THROUGHPUT_BATCH)} for candidate in candidates]
    seconds: list[dict[int, list[float]]] = [{1: [], THROUGHPUT_BATCH: []} for _ in candidates]
    peaks = [_peak_bytes(c, x[THROUGHPUT_BATCH]) for c, x in zip(candidates, inputs, strict=True)]
    repeats = [
        {size: _repeats(candidate.forward, x, device) for size, x in by_size.items()}
        for candidate, by_size in zip(candidates, inputs, strict=True)
    ]
    for taken in range(ROUNDS):
        if taken >= FEWEST_ROUNDS and time.perf_counter() - began > LONG_SECONDS:
            break
        for number, candidate in enumerate(candidates):
            for size, x in inputs[number].items():
                seconds[number][size].append(_timed(candidate.forward, x, device, repeats[number][size]))
                said()
    return [
        {
            "macs": macs(candidate, inputs[number][1]),
            "file_bytes": candidate.file.stat().st_size if candidate.file else None,
            "latency_ms": _spread([1000 * t for t in seconds[number][1]]),
            "throughput": _spread([THROUGHPUT_BATCH / t for t in seconds[number][THROUGHPUT_BATCH]]),
            "peak_bytes": peaks[number],
            "rounds": len(seconds[number][1]),
            "device": _name(device, candidate),
            "threads": torch.get_num_threads(),
        }
        for number, candidate in enumerate(candidates)
    ]


def timings(candidates: Sequence[Candidate]) -> int:
    """How often `costs` calls `said` at most."""
    return 2 * ROUNDS * len(candidates)


@torch.no_grad()
def macs(candidate: Candidate, x: Tensor) -> int | None:
    """Multiply-accumulates of matrix products, convolutions and attention for one image; None of an ONNX file."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    if _is_onnx(candidate):
        return None
    counter = FlopCounterMode(display=False)
    # Attention as plain matrix products, which the counter knows on every device.
    with sdpa_kernel(SDPBackend.MATH), counter:
        candidate.forward(x)
    return counter.get_total_flops() // 2


def _input(candidate: Candidate, size: int, device: torch.device) -> Tensor:
    terms = candidate.preprocess
    generator = torch.Generator().manual_seed(0)
    views = torch.randint(0, 256, (size, terms.in_chans, *terms.img_size), dtype=torch.uint8, generator=generator)
    return candidate.prepare(views.to(device))


def _repeats(forward: Callable[[Tensor], Any], x: Tensor, device: torch.device) -> int:
    """How often a forward is repeated in one timing. The model is warm afterwards."""
    first = _timed(forward, x, device, 1)
    if first > 10 * LEAST_SECONDS:
        return 1
    return max(1, round(LEAST_SECONDS / max(_timed(forward, x, device, 1), 1e-5)))


def _timed(forward: Callable[[Tensor], Any], x: Tensor, device: torch.device, repeats: int) -> float:
    """Seconds of one forward, the mean of so many."""
    _wait(device)
    began = time.perf_counter()
    for _ in range(repeats):
        forward(x)
    _wait(device)
    return (time.perf_counter() - began) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _peak_bytes(candidate: Candidate, x: Tensor) -> int | None:
    if _is_onnx(candidate):
        assert candidate.file is not None
        return peak_bytes_of_onnx(candidate.file, tuple(x.shape))
    return peak_bytes(candidate.forward, x)


def _is_onnx(candidate: Candidate) -> bool:
    return candidate.file is not None and candidate.file.suffix == ".onnx"


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def _name(device: torch.device, candidate: Candidate) -> str:
    if device.type == "cuda" and candidate.module is not None:
        return torch.cuda.get_device_name(device)
    return "cpu" if candidate.module is None and candidate.file is not None else device.type
