"""`python -m distill.bench.startup RECIPE`: how long help and a run's first step are waited for."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
import tyro

from distill.bench.alone import start_with_recipe
from distill.bench.machine import provenance
from distill.commandline import parse
from distill.options import RunOptions
from distill.script import recipe_of

LONGEST_SECONDS = 600
"""That a first step is waited for."""
PATIENCE = 60
"""Seconds that a run may take to end after a signal."""
LAUNCH = ("-m", "accelerate.commands.accelerate_cli", "launch", "-q")
COMPARE = ("-m", "distill", "compare", "--help")


@dataclass(frozen=True, kw_only=True)
class Startup:
    """Measure how long `--help` takes, and a launched recipe until its first step is done.

    All the recipe's options can follow it. Each is done once before it is measured, so that files are in memory, the
    teacher is exported and its head fitted. The launched runs are ended by a signal and their folders removed.
    """

    recipe: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RECIPE")]
    """A recipe's script. Its options come after it."""
    rounds: int = 7
    """How often each `--help` is asked for, in turns."""
    launches: int = 3
    """How often the recipe is launched."""
    json: bool = False
    """Print JSON instead of a table."""

    def __call__(self, options: Sequence[str]) -> None:
        if min(self.rounds, self.launches) < 1:
            raise ValueError(f"--rounds is {self.rounds} and --launches {self.launches}; use 1 or more of each")
        prog = f"python -m distill.bench.startup {self.recipe}"
        parse(recipe_of(self.recipe), RunOptions(), options, prog=prog, description=None)  # before anything is measured
        asked = {
            f"python {self.recipe} --help": [str(self.recipe), "--help"],
            f"python {' '.join(COMPARE)}": list(COMPARE),
        }
        taken: dict[str, list[float]] = {name: [] for name in asked}
        for turn in range(self.rounds + 1):
            for name, words in asked.items():
                seconds = _help(words)
                taken[name] += [seconds] * (turn > 0)
        launched = [first_step([str(self.recipe), *options]) for _ in range(self.launches + 1)]
        taken[f"accelerate launch {self.recipe}, first step done"] = launched[1:]
        if self.json:
            print(json.dumps(provenance("distill.bench.startup") | {"seconds": taken}, indent=1))
            return
        print("| Waited for | Seconds, median (range) |\n| --- | --- |")
        for name, seconds in taken.items():
            print(f"| {name} | {statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) |")


def _help(words: Sequence[str]) -> float:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode or "usage: " not in done.stdout:
        raise ValueError(f"{' '.join(words)} gave no help: {_last(done.stderr or done.stdout)}")
    return seconds


def first_step(recipe: Sequence[str]) -> float:
    """Seconds from `accelerate launch` until a run has written of its first step; the run is ended then."""
    with tempfile.TemporaryDirectory() as aside, open(Path(aside) / "said", "w+") as said:
        metrics = Path(aside) / "run" / "metrics.jsonl"
        command = [sys.executable, *LAUNCH, *recipe, "--out", str(metrics.parent), "--log-every-steps", "1"]
        began = time.perf_counter()
        run = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            while not (metrics.is_file() and "\n" in metrics.read_text()):
                seconds = time.perf_counter() - began
                if run.poll() is not None or seconds > LONGEST_SECONDS:
                    said.seek(0)
                    raise ValueError(f"no first step within {seconds:.0f} s; the run said last: {_last(said.read())}")
                time.sleep(0.01)
            return time.perf_counter() - began
        finally:
            _end(run)


def _end(run: subprocess.Popen[bytes]) -> None:
    """End the launcher and the run, which leaves its folder in order first, and with it all that they started."""
    try:
        launcher = psutil.Process(run.pid)
        left = [launcher, *launcher.children(recursive=True)]
    except psutil.NoSuchProcess:
        left = []
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(run.pid, how)
        # The launcher may be gone before the loaders are, which read what is removed next.
        left = psutil.wait_procs(left, timeout=PATIENCE)[1]
        if not left:
            break
    run.poll()  # so that Popen knows


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"


if __name__ == "__main__":
    start_with_recipe(Startup, "python -m distill.bench.startup")
