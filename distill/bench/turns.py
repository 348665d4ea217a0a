"""Stages measured in turns: A B C, C B A, … so that a machine that becomes slower is as slow for all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from distill.bench.peak import peak_bytes


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Something that is done over and over.

    key: its name in a file. take: does it so many times and returns the seconds. images: of one time. before: is done
    before its turns, off the clock, and where it settles then it is done once more, off the clock too.
    paced_by: the key of another stage, whose number of times its turns have; None, or one that is not measured: as many
    times as fill a turn. fewest: times in a turn at least.
    """

    key: str
    name: str
    take: Callable[[int], float]
    images: int
    paced_by: str | None = None
    before: Callable[[], object] = lambda: None
    settles: bool = True
    fewest: int = 1


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A stage's images/s in each round, and the bytes that it took at its peak beside what was there before."""

    key: str
    name: str
    rates: tuple[float, ...]
    peak_bytes: int | None
    times: int = 1

    @property
    def rate(self) -> float:
        """The median of the rounds' images/s."""
        return median(self.rates)


def timed(work: Callable[[], object], device: torch.device) -> Callable[[int], float]:
    """`take` of work that is over when the device is."""

    def take(times: int) -> float:
        _wait(device)
        began = time.perf_counter()
        for _ in range(times):
            work()
        _wait(device)
        return time.perf_counter() - began

    return take


def in_turns(
    stages: Sequence[Stage],
    *,
    rounds: int,
    seconds: float,
    device: torch.device,
    said: Callable[[str], None] = lambda text: None,
) -> list[Measured]:
    """Measure each stage once a round, after a warm-up in which its peak is taken. said: is told of each turn."""
    peaks: dict[str, int | None] = {}
    times: dict[str, int] = {}
    keys = {stage.key for stage in stages}
    for stage in stages:
        said(f"warming up: {stage.name}")
        stage.before()
        peaks[stage.key] = peak_bytes(lambda stage=stage: stage.take(1), device)  # the optimiser's state comes now, too
        if stage.paced_by not in keys:
            times[stage.key] = max(stage.fewest, math.ceil(seconds / max(stage.take(1), 1e-6)))
    times |= {s.key: max(s.fewest, times[s.paced_by]) for s in stages if s.paced_by in times}
    rates: dict[str, list[float]] = {stage.key: [] for stage in stages}
    for number in range(rounds):
        for stage in stages[:: -1 if number % 2 else 1]:
            said(f"round {number + 1} of {rounds}: {stage.name}")
            stage.before()
            if stage.settles:
                stage.take(1)
            count = times[stage.key]
            rates[stage.key].append(stage.images * count / stage.take(count))
    return [
        Measured(
            key=stage.key,
            name=stage.name,
            rates=tuple(rates[stage.key]),
            peak_bytes=peaks[stage.key],
            times=times[stage.key],
        )
        for stage in stages
    ]


def ratio(one: Measured, other: Measured) -> tuple[float, float, float]:
    """How many times as fast one is as another: the median, lowest and highest of the rounds' own ratios."""
    of_rounds = [a / b for a, b in zip(one.rates, other.rates, strict=True)]
    return median(of_rounds), min(of_rounds), max(of_rounds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
