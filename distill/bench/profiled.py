"""A trace of the online step, and what its time goes into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from distill.console import Console

STEPS, SHOWN = 2, 8


def profiled(step: Callable[[], object], file: Path, console: Console) -> None:
    """Write a trace of STEPS steps, after two that are not in it, and say which operations took most of the time."""
    for _ in range(2):
        step()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(STEPS):
            step()
    file.parent.mkdir(parents=True, exist_ok=True)
    profile.export_chrome_trace(str(file))
    on_device = torch.cuda.is_available()

    def own(event) -> float:
        return event.self_device_time_total if on_device else event.self_cpu_time_total

    events = sorted(profile.key_averages(), key=own, reverse=True)
    whole = sum(map(own, events))
    costs = ", ".join(f"{event.key} {own(event) / whole:.1%}" for event in events[:SHOWN])
    console.say(f"profile: {file}. Most time goes into {costs}")
