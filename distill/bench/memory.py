"""`python -m distill.bench.memory RECIPE`: the memory of a run by stage, beside what it may take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from distill.bench.alone import start_with_recipe
from distill.bench.watched import Watched, watch

if TYPE_CHECKING:
    from distill.bench.budget import Budget

MIB = 2**20
IMPORTS = ("torch", "torchvision", "timm", "accelerate", "distill.train", "distill.compare.models", "onnxruntime")
_IMPORTED = """
import importlib, sys
from pathlib import Path
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    text = Path("/proc/self/status").read_text()
    print(name, 1024 * int(text.partition("RssAnon:")[2].split()[0]))
"""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Carry out a recipe in a process of its own, on a CPU under Linux, and measure its memory by stage.

    All the recipe's options can follow it, such as --optim.epochs 1; its run folder is removed.
    """

    recipe: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RECIPE")]
    """A recipe's script. Its options come after it."""
    cold: bool = False
    """With an empty cache: the teacher is exported, and its head is fitted."""
    json: bool = False
    """Print JSON instead of a table."""

    def __call__(self, options: Sequence[str]) -> None:
        from distill.commandline import parse
        from distill.options import RunOptions
        from distill.script import recipe_of

        if not Path("/proc/self/status").exists():
            raise ValueError("memory is read from /proc, which this system does not have; measure on Linux")
        prog = f"python -m distill.bench.memory {self.recipe}"
        recipe, asked = parse(recipe_of(self.recipe), RunOptions(), options, prog=prog, description=None)
        imported = _imported()
        if asked.dry_run or asked.replay is not None:
            raise ValueError("a rehearsal or a replay is no whole run; leave out --dry-run and --replay")
        with tempfile.TemporaryDirectory() as aside:
            cache = {"DISTILL_CACHE": f"{aside}/cache"} if self.cold else {}
            command = [sys.executable, str(self.recipe), *options, "--out", f"{aside}/run"]
            watched = watch(command, os.environ | {"ACCELERATE_USE_CPU": "true"} | cache)
        # Only now: this process is to be small while the run is measured.
        from distill.bench.budget import budget

        taught = asked.saved is None and not asked.alone
        allowed = budget(recipe if taught else recipe.without_teacher())
        if self.json:
            print(json.dumps(_as_json(watched, allowed, imported), indent=1))
        else:
            print("\n".join([*_table(watched, imported), "", *_verdict(watched, allowed)]))


def _imported() -> dict[str, int]:
    """Private bytes of a process that has imported these packages, one after the other."""
    said = subprocess.run([sys.executable, "-c", _IMPORTED, *IMPORTS], capture_output=True, text=True, check=True)
    rows = (line.split() for line in said.stdout.splitlines())
    return {row[0]: int(row[1]) for row in rows}


def _table(watched: Watched, imported: dict[str, int]) -> list[str]:
    return [
        "| Stage | Private memory, at most, MiB | Of the loaders alone, MiB |",
        "| --- | --- | --- |",
        *(f"| with {name} imported | {_mib(private)} | |" for name, private in imported.items()),
        *(f"| {stage.name} | {_mib(stage.private)} | {_mib(stage.loaders)} |" for stage in watched.stages),
        f"| resident at its peak, shared libraries included | {_mib(watched.resident)} | |",
    ]


def _verdict(watched: Watched, allowed: Budget) -> list[str]:
    parts = [
        f"teacher's weights {_mib(allowed.teacher)}",
        f"student with gradients and optimiser {_mib(allowed.student)}",
        "what the backward pass keeps of a batch " + ("unknown" if allowed.kept is None else _mib(allowed.kept)),
        f"the teacher's pass over a batch {_mib(allowed.passing)}",
        f"and 500 MB for the rest {_mib(allowed.rest)}",
    ]
    lines = [f"budget in MiB: {', '.join(parts)}"]
    for passing, name in ((True, "all of it"), (False, "without the teacher's pass")):
        total = allowed.total(passing=passing)
        if total is not None:
            over = watched.private - total
            kept = f"missed by {_mib(over)}" if over > 0 else f"kept, with {_mib(-over)} to spare"
            lines.append(f"{name}: {_mib(total)} MiB, the run took {_mib(watched.private)}: {kept}")
    return lines


def _as_json(watched: Watched, allowed: Budget, imported: dict[str, int]) -> dict[str, object]:
    from distill.bench.machine import provenance

    return provenance("distill.bench.memory") | {
        "imported_bytes": imported,
        "run_bytes": asdict(watched) | {"private": watched.private},
        "budget_bytes": asdict(allowed)
        | {"total": allowed.total(), "without_the_teachers_pass": allowed.total(passing=False)},
    }


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f}"


if __name__ == "__main__":
    start_with_recipe(Memory, "python -m distill.bench.memory")
