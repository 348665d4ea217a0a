"""Faults injected into small runs, survived and lost: python -m tests.torture --minutes 30, or --short."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from tests.torture import faults, kills, missing, small, soak
from tests.torture.small import Place

AT_LEAST = {"recipes": 2000, "images": 500, "checkpoints": 200, "saved outputs": 200}
SHORT = {"recipes": 20, "images": 100, "checkpoints": 4, "saved outputs": 4}
SHORT_FAULTS = (
    "SIGTERM to all its processes",
    "a second run in the folder",
    "malicious custom_checkpoint_0.pkl",
    "loader process killed",
    "gradient not finite",
    "one of two processes killed",
    "one of two fails alone",
)


@dataclass(frozen=True, kw_only=True)
class Torture:
    """Make faults happen to small runs on the CPU and print what became of them; exit code 1 if one was lost."""

    minutes: float = 30.0
    """After all of it was done once, it is done again with other random moments and values until then."""
    short: bool = False
    """A part of it, once, in less than a minute."""
    soak: bool = False
    """Small runs one after another instead, half of the minutes in one process and half in many; fails if one leaves
    more behind than the one before."""
    seed: int = 0
    """Of the random moments and values."""


@dataclass
class Tally:
    """What was injected, a row of the table a kind."""

    injected: dict[str, int] = field(default_factory=dict)
    lost: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def add(self, kind: str, wrong: str | None) -> None:
        self.injected[kind] = self.injected.get(kind, 0) + 1
        if wrong:
            self.lost.setdefault(kind, []).append(wrong)

    def table(self) -> Table:
        table = Table("fault", box=None)
        for column in ("injected", "survived", "lost"):
            table.add_column(column, justify="right")
        for kind, count in self.injected.items():
            lost = len(self.lost.get(kind, ()))
            table.add_row(kind, f"{count:,}", f"{count - lost:,}", str(lost))
        total, lost = sum(self.injected.values()), sum(map(len, self.lost.values()))
        table.add_row("all", f"{total:,}", f"{total - lost:,}", str(lost), style="bold")
        return table


def one_round(place: Place, tally: Tally, options: Torture, seed: int) -> None:
    """Everything once."""
    for kind in ("plain",) if options.short else kills.KINDS:
        for what, wrong in kills.killed(
            place, kind, 2 if options.short else 20, seed, epochs=2 if options.short else 4
        ):
            tally.add(what, wrong)
    for name, fault in (faults.ONE | missing.ONE | faults.TWO).items():
        if options.short and name not in SHORT_FAULTS:
            continue
        out = place.root / f"{name.replace(' ', '-')}-{seed}" / "run"
        try:
            tally.add(name, fault(place, out))
        except NotImplementedError as error:
            tally.left_out.append(f"{name}: {error}")
        except TimeoutError as error:
            tally.add(name, str(error))
    for kind, count in (SHORT if options.short else AT_LEAST).items():
        for _, wrong in fuzzed(place, kind, count, seed):
            tally.add(f"broken {kind}", wrong)


def fuzzed(place: Place, kind: str, count: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """The cases of one kind, from a process of their own, which may hang or die."""
    found = place.root / f"{kind}-{seed}.jsonl"
    started = place.fuzz(kind, count, seed, found)
    limit = time.monotonic() + 120 + 5 * count  # a machine may be busy with other things
    while started.process.exitcode is None and time.monotonic() < limit:
        started.process.join(1)
    started.kill()
    cases = [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
    yield from ((what, f"{what}: {wrong}" if wrong else None) for what, wrong in cases)
    if len(cases) < count:
        yield "", f"broken {kind}: ended or hung after {len(cases)} of {count} cases: {started.said[-300:]}"


def soaked(minutes: float) -> bool:
    """Whether something grew or was left behind; prints what there was after the runs."""
    root, console = Path(tempfile.mkdtemp(prefix="soak-")), Console()
    try:
        place = small.make(root)
        rows, wrong = soak.one_process(place, minutes / 2)
        found = [wrong] if wrong else soak.grown(rows)
        console.print(soak.table(rows, "one process"), "") if rows else None
        rows, wrong = soak.many_processes(place, minutes / 2)
        found += [wrong] if wrong else soak.left(rows)
        console.print(soak.table(rows, "many processes"), "") if rows else None
    finally:
        shutil.rmtree(root, ignore_errors=True)
    console.print("\n".join(found) or "nothing grew and nothing was left", markup=False, soft_wrap=True)
    return bool(found)


def main() -> None:
    """Rounds until the time is over."""
    options = tyro.cli(Torture, prog="python -m tests.torture")
    if options.soak:
        sys.exit(soaked(options.minutes))
    began, tally, rounds = time.monotonic(), Tally(), 0
    while rounds == 0 or (not options.short and time.monotonic() - began < 60 * options.minutes):
        root = Path(tempfile.mkdtemp(prefix="torture-"))
        try:
            one_round(small.make(root), tally, options, options.seed + rounds)
        finally:
            shutil.rmtree(root, ignore_errors=True)
        rounds += 1
    console = Console()
    console.print(tally.table())
    for line in [f"left out: {line}" for line in tally.left_out] + [
        line for lines in tally.lost.values() for line in lines
    ]:
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"{rounds} rounds in {(time.monotonic() - began) / 60:.1f} minutes", highlight=False)
    sys.exit(bool(tally.lost))


if __name__ == "__main__":
    main()
