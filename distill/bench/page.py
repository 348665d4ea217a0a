"""What a bench says: a table of stages, ratios, what binds, and the same as JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table

from distill import sizing
from distill.bench.command import BenchOptions
from distill.bench.machine import commit, cpu, machine, versions
from distill.bench.turns import Measured, ratio
from distill.preflight import Plan

if TYPE_CHECKING:
    from accelerate import Accelerator

NARROW = 90  # columns, below which the range and the memory are left to the file
LOADER_BINDS = 1.1  # times as fast as the loop, below which it is the loader that the loop waits for
MIB = 2**20
TO = {
    "student": "of the student alone",
    "online": "of the online step",
    "online_logits": "of the step without them",
    "loop": "of the whole loop",
}
"""What a stage is called where another is compared with it."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How many times as fast one stage is as another, in words about both."""

    name: str
    to: str
    one: Measured
    other: Measured

    def __str__(self) -> str:
        middle, low, high = ratio(self.one, self.other)
        rounds = f"{low:.2f} to {high:.2f} in {len(self.one.rates)} rounds" if len(self.one.rates) > 1 else "1 round"
        return (
            f"{self.name}: {middle:.2f} {self.to} ({rounds}, {self.one.times} and {self.other.times} batches a round)"
        )

    def as_json(self) -> dict[str, Any]:
        """The stages' keys, and the ratio's median and range over the rounds."""
        middle, low, high = ratio(self.one, self.other)
        return {"of": self.one.key, "to": self.other.key, "median": middle, "low": low, "high": high}


@dataclass(frozen=True, kw_only=True)
class Page:
    """The figures of one bench."""

    script: Path
    plan: Plan
    options: BenchOptions
    stages: list[Measured]
    notes: list[str]
    accelerator: Accelerator

    def of(self, key: str) -> Measured | None:
        """A stage by its key; None if it was not measured."""
        return next((stage for stage in self.stages if stage.key == key), None)

    def table(self, width: int) -> Table:
        """A row a stage: images/s, of the student alone, memory."""
        table = Table(title=f"{self.script.stem}: {self._where()}", title_justify="left", title_style="bold", box=None)
        table.add_column("", style="cyan", overflow="fold")
        table.add_column("images/s", justify="right", no_wrap=True)
        if width >= NARROW:
            table.add_column("range", justify="right", no_wrap=True)
        table.add_column("× floor", justify="right", no_wrap=True)
        if width >= NARROW:
            table.add_column("peak MiB", justify="right", no_wrap=True)
        for stage in self.stages:
            span = f"{min(stage.rates):.1f} – {max(stage.rates):.1f}"
            peak = "" if stage.peak_bytes is None else f"{stage.peak_bytes / MIB:,.0f}"
            row = [stage.name, f"{stage.rate:.1f}", span, self._of_floor(stage), peak]
            table.add_row(*(row if width >= NARROW else [row[0], row[1], row[3]]))
        return table

    def lines(self) -> list[str]:
        """Ratios that matter, what binds, and what was not measured."""
        said = [
            *map(str, self._ratios()),
            binds({stage.key: stage for stage in self.stages}),
            self._used(),
            *self.notes,
        ]
        return [line for line in said if line]

    def _ratios(self) -> list[Compared]:
        asked = [
            ("loop", "online" if self.of("online") else "student", "whole loop"),
            ("loop_overlapped", "loop", "whole loop, overlapped"),
            ("saved", "student", "from saved outputs"),
            ("online", "online_logits", "with losses on features"),
            *(("ours", f"peer_{peer}", "ours") for peer in self.options.against),
        ]
        found = [(name, self.of(one), self.of(other)) for one, other, name in asked]
        return [
            Compared(name=name, to=TO.get(other.key, f"times {other.name}"), one=one, other=other)
            for name, one, other in found
            if one is not None and other is not None
        ]

    def as_json(self) -> dict[str, Any]:
        """Everything, with the machine and the versions it was measured on."""
        floor = self.of("student")
        return {
            "recipe": str(self.script),
            "command": ["python", "-m", "distill", *sys.argv[1:]],
            "date": date.today().isoformat(),
            "commit": commit(),
            "machine": machine() | {"threads": torch.get_num_threads(), "runs": self._where()},
            "versions": versions(),
            "batch_size": self.plan.layout.batch_size,
            "rounds": self.options.rounds,
            "stages": [
                {
                    "key": stage.key,
                    "name": stage.name,
                    "images_per_second": {
                        "median": stage.rate,
                        "low": min(stage.rates),
                        "high": max(stage.rates),
                        "rounds": list(stage.rates),
                    },
                    "ratio_to_floor": ratio(stage, floor)[0] if floor else None,
                    "peak_bytes": stage.peak_bytes,
                    "times_a_turn": stage.times,
                }
                for stage in self.stages
            ],
            "ratios": [compared.as_json() for compared in self._ratios()],
            "operations_per_second": self._operations,
            "binds": binds({stage.key: stage for stage in self.stages}),
            "notes": self.notes,
        }

    def _of_floor(self, stage: Measured) -> str:
        floor = self.of("student")
        return f"{ratio(stage, floor)[0]:.2f}" if floor else ""

    @cached_property
    def _operations(self) -> float | None:
        """Operations a second of both models in the online step, of the student's alone if there is none."""
        stage = self.of("online") or self.of("student")
        cost = sizing.cost(self.plan, min(self.plan.layout.part, 8)) if stage else None
        if stage is None or cost is None:
            return None
        teacher = sizing.teacher(self.plan).flops if stage.key == "online" else 0
        return stage.rate * (cost.flops + teacher)

    def _used(self) -> str:
        """The operations a second, and their share of what the device can do."""
        rate = self._operations
        if rate is None:
            return ""
        peak = self.options.peak_tflops
        share = f", {rate / peak / 1e12:.0%} of the peak" if peak else ""
        what = "online step: {} of the two models" if self.of("online") else "student alone: {}"
        return what.format(f"{rate / 1e12:.3g} × 10^12 operations/s") + share

    def _where(self) -> str:
        device = self.accelerator.device
        if device.type == "cuda":
            name = torch.cuda.get_device_name(device)
        else:
            name = f"{torch.get_num_threads()} threads of {cpu()}"
        precision = {"no": "float32"}.get(str(self.accelerator.mixed_precision), str(self.accelerator.mixed_precision))
        return f"{name}, {precision}, batch {self.plan.layout.batch_size}"


def binds(stages: Mapping[str, Measured]) -> str:
    """The share of the whole loop's time that each model would take alone; empty where not all of it was measured."""
    loop, student, teacher, loader = (stages.get(key) for key in ("loop", "student", "teacher", "loader"))
    if loop is None or student is None or loader is None:
        return ""
    shares = {"the student": loop.rate / student.rate}
    if teacher:
        shares["the teacher"] = loop.rate / teacher.rate
    feeds = loader.rate / loop.rate
    most = "the loader" if feeds < LOADER_BINDS else max(shares, key=lambda name: shares[name])
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return f"{most} binds: of the loop's time {told}; the loader alone is {feeds:.1f} times as fast as the loop"
