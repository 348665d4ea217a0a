"""`python -m teachers.runtime.measure`: teachers × runtimes in one process, in turns, as a table in Markdown.

It lies beside what it measures and is installed with it, so that users see what their own machine gives.
"""

from __future__ import annotations

import copy
import platform
import statistics
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import torch
import tyro
from torch import Tensor
from torch.nn.functional import interpolate

from students.outputs import Outputs
from teachers.frozen import FrozenTeacher
from teachers.runtime.agreement import deviation
from teachers.runtime.contract import Answers
from teachers.teacher import RuntimeName, Teacher

PLAIN = "as timm builds it"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Measure how fast teachers run, and how far each runtime is from the model as timm builds it."""

    names: tuple[str, ...] = ("tf_efficientnet_lite0", "resnet50", "vit_small_patch16_224")
    """timm names. Weights are those of an installed package where one carries them, and random elsewhere."""
    runtimes: tuple[RuntimeName, ...] = ("eager", "onnxruntime", "inductor")
    """What is measured beside the model as timm builds it; what cannot run here has its reason in the table."""
    img_size: int = 224
    """Height and width in pixels."""
    batch_size: int = 16
    """Images in a batch, 2 or more."""
    rounds: int = 9
    """Rounds, in each of which every runtime takes one batch; every other round goes backwards."""
    layers: tuple[int, ...] = ()
    """Layers whose grids come out too."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """float32, or the autocast."""
    threads: int | None = None
    """CPU threads; None: torch's own number."""

    def __call__(self) -> None:
        if min(self.batch_size - 1, self.rounds, self.img_size) < 1:
            raise ValueError("use a --batch-size of 2 or more, and --rounds and --img-size of 1 or more")
        if self.threads:
            torch.set_num_threads(self.threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        views = _views(self.batch_size, self.img_size).to(device)
        print(
            f"{_where(device)}; {self.img_size} px, batch {self.batch_size}, {self.precision}, {self.rounds} rounds\n"
        )
        print("| Teacher | Runs on | Images/s, median (range) | Times | Furthest from eager |")
        print("| --- | --- | --- | --- | --- |", flush=True)
        for name in self.names:
            for row in self.rows(name, views):
                print(f"| {' | '.join(row)} |", flush=True)

    def rows(self, name: str, views: Tensor) -> list[tuple[str, ...]]:
        """The rows of one teacher for views [B, 3, H, W]: its name, runtime, images/s, speed-up, deviation."""
        teacher, weights = self._teacher(name)
        teacher.to(views.device)
        exact = _answers(teacher(views, self.layers))
        ready, unable = {PLAIN: teacher}, {}
        lower = torch.autocast(views.device.type, getattr(torch, self.precision), enabled=self.precision != "float32")
        with lower:
            for runtime in self.runtimes:
                other = copy.deepcopy(teacher)
                other.runtime = runtime
                try:
                    ready[runtime] = other.start(views.device, self.layers, views)
                except ValueError as error:
                    unable[runtime] = str(error)
            seconds = self._in_turns(ready, views)
            off = {runtime: deviation(_answers(model(views, self.layers)), exact) for runtime, model in ready.items()}
        rows = []
        for runtime, taken in seconds.items():
            speeds = sorted(self.batch_size / one for one in taken)
            median = statistics.median(speeds)
            times = statistics.median(seconds[PLAIN]) / statistics.median(taken)
            note = PLAIN if runtime == PLAIN else ready[runtime].runtime_note
            speed = f"{median:.1f} ({speeds[0]:.1f} to {speeds[-1]:.1f})"
            rows.append((f"`{name}`, {weights}", note, speed, f"{times:.2f}", f"{off[runtime]:.0e}"))
        return rows + [(f"`{name}`, {weights}", runtime, why, "", "") for runtime, why in unable.items()]

    def _teacher(self, name: str) -> tuple[FrozenTeacher, str]:
        config = Teacher(name=name, img_size=self.img_size, runtime="eager")
        carried = config.weights_source().startswith("package")
        if carried:
            with suppress(ValueError):  # the weights cannot be had
                return config.build(), "ImageNet weights"
        torch.manual_seed(0)
        return config.build(pretrained=False), "random weights"

    def _in_turns(self, ready: dict[str, FrozenTeacher], views: Tensor) -> dict[str, list[float]]:
        """Seconds of each round, after two that do not count."""
        seconds: dict[str, list[float]] = {runtime: [] for runtime in ready}
        for number in range(-2, self.rounds):
            for runtime in list(ready)[:: -1 if number % 2 else 1]:
                began = _now(views.device)
                ready[runtime](views, self.layers)
                if number >= 0:
                    seconds[runtime].append(_now(views.device) - began)
        return seconds


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _answers(outputs: Outputs) -> Answers:
    assert outputs.embedding is not None
    return outputs.logits, outputs.embedding, dict(outputs.grids)


def _views(batch_size: int, img_size: int) -> Tensor:
    noise = torch.rand(batch_size, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return interpolate(noise, (img_size, img_size), mode="bicubic").clamp(0, 1)  # as smooth as photographs are


def _where(device: torch.device) -> str:
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    else:
        machine = f"{torch.get_num_threads()} CPU threads, {platform.machine()}"
    versions = []
    for package in ("torch", "timm", "onnxruntime"):
        with suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    return f"{machine}, {', '.join(versions)}"


def main() -> None:
    """Parse the command line and measure; a user's error is one line and exit code 2."""
    try:
        tyro.cli(Measure, prog="python -m teachers.runtime.measure")()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
