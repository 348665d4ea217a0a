"""One size of `distill.bench.growth`: a tiny student on so many images, in a process of its own beside the others."""

from __future__ import annotations

import io
import multiprocessing
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

if TYPE_CHECKING:
    from distill.compare.measure import Comparison
    from distill.preflight import Plan
    from students import ViT

Kind = Literal["arrays", "folder", "synthetic"]
FEW = 500
"""Images whose time is taken off, for it is what starting costs; from so many on a comparison leaves nothing out."""
MOST_TIMES = 100
"""How often a small set is taken in a round: as often as makes the images of the largest, but no more than this."""
SIDE = 16
"""Height and width in pixels."""
PARTS = ("train", "validate", "compare")
MEASURED = PARTS[1:]
"""The parts whose memory is told."""


@dataclass(frozen=True, kw_only=True)
class Grown:
    """seconds: of the processor, for one time of each part, once a round. peaks: bytes that a part takes at most."""

    seconds: dict[str, list[float]]
    peaks: dict[str, int | None]


def grown(data: Kind, sizes: Sequence[int], aside: Path, *, rounds: int) -> dict[int, Grown]:
    """What each size takes, and what FEW images take, all of them measured at the same time on the same core.

    A process each, which the system lets take turns of milliseconds: what slows the machine slows all of them. None
    begins a part before all are done with the one before.
    """
    every = [FEW, *sizes]
    seconds: dict[int, dict[str, list[float]]] = {size: {part: [] for part in PARTS} for size in every}
    peaks: dict[int, dict[str, int | None]] = {size: {} for size in every}
    with _processes(data, every, aside) as processes:
        _answers(processes)
        for _ in range(rounds):
            for part in PARTS:
                for size, process in processes.items():
                    process.send(("take", part, times(size, sizes[-1])))
                for size, mean in _answers(processes).items():
                    seconds[size][part].append(mean)
        for part in MEASURED:
            for process in processes.values():
                process.send(("peak", part, 1))
            for size, peak in _answers(processes).items():
                peaks[size][part] = peak
    return {size: Grown(seconds=seconds[size], peaks=peaks[size]) for size in every}


@contextmanager
def _processes(data: Kind, sizes: Sequence[int], aside: Path) -> Iterator[dict[int, Connection]]:
    """Ends of pipes to a process for each size, which are ended with the context."""
    context = multiprocessing.get_context("spawn")
    started, ends = [], {}
    try:
        for size in sizes:
            ends[size], theirs = context.Pipe()
            process = context.Process(target=_answering, args=(data, size, aside / str(size), theirs))
            process.start()
            started.append(process)
            theirs.close()
        yield ends
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.join()


def _answers(processes: dict[int, Connection]) -> dict[int, Any]:
    """What each says next. ValueError as soon as one has failed or is gone."""
    said: dict[int, Any] = {}
    while len(said) < len(processes):
        ready = wait([end for size, end in processes.items() if size not in said])
        for size, end in processes.items():
            if end in ready:
                try:
                    said[size] = end.recv()
                except EOFError:
                    raise ValueError(f"the process for {size:,} images was killed; is there memory for all?") from None
                if isinstance(said[size], str):
                    raise ValueError(f"{size:,} images: {said[size]}")
    return said


def _answering(data: Kind, size: int, aside: Path, asked: Connection) -> None:
    """The body of one process: says None when it is ready, and then what is asked for; an error as a text."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is ended by the process that began it
    multiprocessing.set_start_method(None, force=True)  # loaders are begun as in a run, not as this process was
    try:
        on_one_core()
        job, first = Job(data, size, aside), Job(data, FEW, aside / "first")
        job.read()
        for part in PARTS:  # what the first of all costs is nobody's
            first.take(part)
        asked.send(None)
        while True:
            what, part, count = asked.recv()
            if what == "peak":
                asked.send(job.peak(part))
            else:
                asked.send(statistics.mean(job.take(part) for _ in range(count)))
    except EOFError:
        return
    except Exception as error:
        with suppress(OSError):  # nobody listens any more
            asked.send(str(error))


def on_one_core() -> None:
    """Keep this process on the first core that it may use, with one thread; where the system has it."""
    import os

    import torch

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _processor_seconds() -> float:
    """Seconds that this process has computed, and its loaders that have ended."""
    import resource

    of_loaders = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + of_loaders.ru_utime + of_loaders.ru_stime


def times(size: int, largest: int) -> int:
    """How often a set of this size is taken in a round."""
    return max(1, min(largest // size, MOST_TIMES))


class Job:
    """A tiny student and so many images to train on, and as many to validate on. Files lie in `aside`."""

    def __init__(self, data: Kind, size: int, aside: Path) -> None:
        from accelerate import Accelerator

        from distill.losses import CrossEntropy
        from distill.recipe import Optim, Recipe
        from distill.views import Views
        from students import ViTConfig

        aside.mkdir(parents=True)
        student = ViTConfig(img_size=SIDE, patch_size=8, num_classes=None, embed_dim=16, depth=1, num_heads=1)
        self.recipe = Recipe(
            student=student,
            data=images_of(data, size, aside),
            losses={"labels": CrossEntropy()},
            views=Views(scale=(1.0, 1.0), hflip=0.5),
            optim=Optim(epochs=1, batch_size=64, warmup_epochs=0),
        )
        self.aside, self.runs, self.accelerator = aside, 0, Accelerator(cpu=True)
        self.student: ViT | None = None

    def plan(self) -> Plan:
        from distill import preflight

        return preflight.check(self.recipe, processes=1, accumulate=1)

    def read(self) -> None:
        """Have the system know every image: a file is slower to read for the first time, wherever it lies."""
        plan = self.plan()
        for images in (plan.train, plan.val):
            for index in range(len(images)):
                images[index]

    def take(self, part: str) -> float:
        """Seconds of the processor that one time of a part takes, once all it needs is there."""
        work = self._work(part)
        began = _processor_seconds()
        work()
        return _processor_seconds() - began

    def peak(self, part: str) -> int | None:
        """The memory that one time of a part takes at most, in bytes."""
        from distill.bench.peak import peak_bytes

        return peak_bytes(self._work(part), self.accelerator.device)

    def _work(self, part: str) -> Callable[[], object]:
        plan = self.plan()
        if part == "train":
            return lambda: self._train(plan)
        assert self.student is not None, "training comes first"
        if part == "validate":
            from distill.train import evaluate

            student = self.student
            return lambda: evaluate(plan, student, None, self.accelerator, workers=0)
        from distill.compare.measure import Extent

        comparison = self._comparison(plan, self.student)
        return lambda: comparison.measure(Extent(cka_images=0, cost=False))

    def _train(self, plan: Plan) -> None:
        from torch.utils.data import Subset

        from distill.console import Console
        from distill.options import RunOptions
        from distill.train import train

        self.runs += 1
        few: Any = Subset(cast(Any, plan.val), range(min(FEW, len(plan.val))))  # which the last epoch ends with
        options = RunOptions(log_every_steps=10**9, checkpoint_every_steps=10**9)
        out = self.aside / f"run-{self.runs}"
        out.mkdir()
        console = Console(main=False)
        self.student = train(replace(plan, val=few), None, self.accelerator, out, options, console, workers=0)
        self.accelerator.free_memory()  # which would keep the student of every run, and save them all again

    def _comparison(self, plan: Plan, student: ViT) -> Comparison:
        import students
        from distill.compare.candidate import keyed
        from distill.compare.classes import agree
        from distill.compare.measure import Comparison
        from distill.compare.models import student_candidate
        from distill.compare.terms import of_views
        from distill.compare.validation import Validation
        from distill.console import Console

        out = self.aside / f"run-{self.runs}"
        if not (out / "student").exists():
            students.save(student, out / "student", label_names=plan.classes)
        terms = of_views(plan.recipe.views, plan.recipe.view_size, plan.recipe.student.in_chans)
        own = student_candidate(student, out, self.accelerator, baseline=True, terms=terms, names=plan.classes)
        images = Validation("images", plan.val, plan.classes)
        space = agree(images.classes, keyed([own]))
        return Comparison(space, images, self.accelerator, Console(main=False), reference=None, scratch=out)


def images_of(data: Kind, size: int, aside: Path) -> Any:
    """A data set of so many images in each of two splits; its files, if it has any, are made in `aside`."""
    from distill.data import Arrays, Folder, Synthetic

    classes = 10
    if data == "synthetic":
        return Synthetic(images=size, val_images=size, num_classes=classes, img_size=SIDE)
    rng = np.random.default_rng(size)
    labels = np.arange(size) % classes
    names = [f"class_{label}" for label in range(classes)]
    if data == "arrays":
        train, val = rng.integers(0, 256, (2, size, SIDE, SIDE, 3), np.uint8)
        file = aside / "images.npz"
        np.savez(
            file, train_images=train, val_images=val, train_labels=labels, val_labels=labels, classes=np.array(names)
        )
        return Arrays(path=str(file))
    for split in ("train", "val"):
        for name in names:
            (aside / split / name).mkdir(parents=True)
        for index, label in enumerate(labels):
            file = aside / split / names[label] / f"{index:06}.jpg"
            file.write_bytes(_jpeg(rng))
    return Folder(root=str(aside))


def _jpeg(rng: np.random.Generator) -> bytes:
    from PIL import Image

    with io.BytesIO() as file:
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(file, "JPEG")
        return file.getvalue()
