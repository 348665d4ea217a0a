"""Small runs in processes of their own, begun, hurt and compared."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).parents[2]
PATIENCE_SECONDS = 120.0
ENVIRONMENT = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
EVERY = ("--threads", "1", "--log-every-steps", "1")


@dataclass
class Started:
    """A run under way, or ended."""

    out: Path
    log: Path
    process: Any

    def wait(self) -> int:
        """Its exit code; negative for a signal that it did not handle. TimeoutError if it hangs."""
        self.process.join(PATIENCE_SECONDS)
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutError(f"{self.out} hangs")
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def until(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition; False if the run ended before."""
        while not condition():
            if self.process.exitcode is not None:
                return False
            time.sleep(0.002)
        return True

    def steps(self) -> int:
        """Lines of metrics.jsonl."""
        file = self.out / "metrics.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@dataclass
class Place:
    """A folder of small runs: `data`, an .npz file, and `teacher`, a saved model."""

    root: Path
    count: int = 0
    context: Any = field(default_factory=lambda: multiprocessing.get_context("forkserver"))

    @property
    def data(self) -> Path:
        return self.root / "tiny.npz"

    @property
    def teacher(self) -> Path:
        return self.root / "teacher" / "tiny"

    def recipe(self) -> Any:
        """The tiny recipe with this place's data and teacher."""
        from tests.tiny_recipe import recipe

        return self.here(recipe)

    def here(self, recipe: Any) -> Any:
        """A recipe with this place's data and teacher."""
        return replace(
            recipe,
            data=replace(recipe.data, path=str(self.data)),
            teacher=replace(recipe.teacher, name=str(self.teacher)),
        )

    def start(
        self,
        out: Path,
        *args: str,
        recipe: Any = None,
        environment: dict[str, str] | None = None,
        limit: int = 0,
    ) -> Started:
        """Begin a run, or go on with it."""
        log, more = self._log(), environment or {}
        value = recipe or self.recipe()
        options = (str(out), str(log), ENVIRONMENT | {"DISTILL_CACHE": str(self.root / "cache")} | more)
        return Started(out, log, self._process("train", (*options, (*EVERY, *args), value, limit)))

    def run(self, out: Path, *args: str, **how: Any) -> Started:
        """A run to its end."""
        started = self.start(out, *args, **how)
        started.wait()
        return started

    def save(self, out: Path, recipe: Any) -> Started:
        """Save a teacher's outputs."""
        log = self._log()
        started = Started(out, log, self._process("save", (str(out), str(log), dict(ENVIRONMENT), recipe)))
        started.wait()
        return started

    def fuzz(self, kind: str, count: int, seed: int, found: Path) -> Started:
        """Begin a process that meets so many cases of broken input."""
        log = self._log()
        environment = ENVIRONMENT | {"DISTILL_CACHE": str(self.root / "cache")}
        args = (str(self.root), str(log), environment, kind, count, seed, str(found))
        return Started(self.root, log, self._process("fuzz", args))

    def pair(self, out: Path, *args: str, recipe: Any = None) -> list[Started]:
        """Begin a run of two processes, which meet in a store of this one's, as in that of a launcher."""
        from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        meet = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
        }
        ranks = [
            self.start(out, *args, recipe=recipe, environment=meet | {"RANK": rank, "LOCAL_RANK": rank})
            for rank in "01"
        ]
        ranks[0].process.store = store  # kept as long as the processes are
        return ranks

    def _log(self) -> Path:
        self.count += 1
        return self.root / "logs" / f"{self.count:05d}.txt"

    def _process(self, what: str, args: tuple[Any, ...]) -> BaseProcess:
        process = self.context.Process(target=_enter, args=(what, args))
        process.start()
        return process


def _enter(what: str, args: tuple[Any, ...]) -> None:
    from tests.torture import child

    getattr(child, what)(*args)


def make(root: Path) -> Place:
    """640 + 200 images of the quickstart's data and an untrained teacher of their classes."""
    import torch

    import students

    os.environ.update(ENVIRONMENT)  # for the server that runs are copied from
    place = Place(root)
    (root / "logs").mkdir(parents=True)
    with np.load(REPOSITORY / "recipes" / "data" / "fashion_mnist.npz") as whole:
        parts = {name: whole[name][: 640 if "train" in name else 200] for name in whole.files if name != "classes"}
        np.savez(place.data, **parts, classes=whole["classes"])
    torch.manual_seed(5)
    config = students.ViTConfig(
        img_size=28, patch_size=7, in_chans=1, embed_dim=24, depth=2, num_heads=2, num_classes=10
    )
    model = config.build()
    torch.nn.init.normal_(model.get_parameter("head.weight"), std=0.5)
    students.save(model, place.teacher)
    place.context.set_forkserver_preload(["tests.torture.child"])
    return place


def differences(one: Path, other: Path) -> list[str]:
    """What two finished runs do not have in common: weights, metrics or reports, to the last bit."""
    found = [
        name
        for name in ("student/model.safetensors", "student/config.json", "report.md")
        if not (other / name).is_file() or (one / name).read_bytes() != (other / name).read_bytes()
    ]
    found += ["report.json"] if report(one) != report(other) else []
    return found + (["metrics.jsonl"] if metrics(one) != metrics(other) else [])


def metrics(run: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without the time they took."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def report(run: Path) -> Any:
    """report.json without the place of the run."""
    named = ("key", "name", "source", "run")  # after the run's folder
    value = json.loads((run / "report.json").read_text())
    models = [{name: figure for name, figure in model.items() if name not in named} for model in value["models"]]
    return models, value["data"], list(value["curves"].values())


def one_line(runs: Sequence[Started], words: str) -> str | None:
    """What is wrong with how processes failed together: exactly one error line, with these words, no traceback."""
    said = "\n".join(run.said for run in runs)
    lines = [line for line in said.splitlines() if line.startswith(("error: ", "stopped: "))]
    if "Traceback" in said:
        return f"a traceback, ending in {said.strip().splitlines()[-1]}"
    if len(lines) != 1:
        return f"{len(lines)} lines: {' | '.join(lines)}"
    return None if words in lines[0] else f"said: {lines[0]}"
