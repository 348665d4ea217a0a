"""The command line of `python -m distill bench RECIPE`: what is measured, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from teachers.teacher import RuntimeName

Peer = Literal["timm", "torchdistill", "loop"]
Part = Literal["student", "teacher", "online", "saved", "loader", "loop", "peers"]


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured and how. Every field of the recipe is an option too, as in the recipe's own command."""

    against: tuple[Peer, ...] = ()
    """The same job through timm's LogitDistillationTask, torchdistill's DistillationBox, or a loop written by hand."""
    rounds: int = 7
    """Rounds, in each of which every stage has its turn; every other round goes backwards."""
    seconds: float = 2.0
    """How long a stage's turn lasts at least."""
    runtimes: tuple[RuntimeName, ...] = ("eager",)
    """Ways to run the teacher that are measured beside the one that the recipe takes."""
    only: tuple[Part, ...] = ()
    """Measure these parts only, which leaves time for more rounds; none named: all. loop: the run's own, no peer."""
    json: Path | None = None
    """Write all figures to this file."""
    profile: Path | None = None
    """Write a trace of two online steps, for chrome://tracing or Perfetto, and name what they spend their time on."""
    peak_tflops: float | None = None
    """What the device can do in this precision, in 10^12 operations a second: gives the share that is used."""
    workers: int | None = None
    """Loader processes; None: the cores that are left, one to eight. 0: load in the process."""
    threads: int | None = None
    """CPU threads; None: the cores of the machine."""
    overlap: bool = False
    """Measure the whole loop with --overlap as well; on a CUDA GPU that is always done."""
    compile: bool = False
    """Compile as the recipe's --compile does; the peers' student and teacher too."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure a recipe's stages in turns: student, teacher, loader, a step, saved outputs, the loop, and peers."""

    script: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RECIPE")]
    """A script whose `recipe` is a Recipe. Behind it its fields are options too."""
    options: Annotated[BenchOptions, tyro.conf.arg(name="")] = BenchOptions()

    def __call__(self) -> None:
        from distill.bench.carry_out import bench
        from distill.script import recipe_of

        bench(recipe_of(self.script), self.options, self.script)

    @classmethod
    def with_recipe(cls, script: Path, args: Sequence[str]) -> None:
        """Carry it out with the options behind the script, its recipe's and these. An unknown one ends the program."""
        from distill.commandline import parse
        from distill.script import recipe_of

        prog = f"python -m distill bench {script}"
        recipe, options = parse(recipe_of(script), BenchOptions(), args, prog=prog, description=cls.__doc__)
        # Heavy imports wait until the options are known to be right.
        from distill.bench.carry_out import bench

        bench(recipe, options, script)
