"""What is measured of a recipe: its stages, made one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from distill import preflight
from distill.ahead import streams_for
from distill.allocator import give_freed_memory_back, keep_freed_memory
from distill.bench.command import BenchOptions, Part
from distill.bench.heads import random_head
from distill.bench.peers import PEERS, Step, losses_of, said_differently, same_job
from distill.bench.saved import save_batches, served
from distill.bench.steps import Ready, Teaching, ready_batches, step
from distill.bench.turns import Stage, timed
from distill.bench.whole import FEWEST, loading, looping
from distill.compiling import with_compiled_teacher
from distill.console import Console
from distill.loader import default_workers
from distill.options import RunOptions
from distill.preflight import Plan
from distill.recipe import Recipe
from distill.teaching import make_teacher
from teachers import FrozenTeacher, Teacher

if TYPE_CHECKING:
    from teachers.frozen_ensemble import AnyFrozen

BATCHES = 2  # that lie ready: a step never sees the batch of the step before
CLOSE = 2e-3
"""The most that a peer's first loss, and the teacher's logits as a share of the largest one, may be off ours.

They round in another order.
"""


@dataclass
class Stages:
    """What is measured of a plan, made one after the other. notes: what could not be, and why."""

    plan: Plan
    options: BenchOptions
    accelerator: Accelerator
    console: Console
    aside: Path

    def __post_init__(self) -> None:
        self.notes: list[str] = []
        self.run = RunOptions(workers=self.options.workers, threads=self.options.threads, compile=self.options.compile)
        self.batches = ready_batches(self.plan, BATCHES, self.accelerator.device)
        self.taught = self.plan.recipe.teacher is not None

    def all(self) -> list[Stage]:
        """The stages that are asked for and that the recipe has, in the order of the table."""
        parts: dict[Part, Callable[[], list[Stage]]] = {"student": self._student}
        parts |= {"teacher": self._teachers, "online": self._onlines, "saved": self._saved} if self.taught else {}
        parts |= {"loader": self._loader, "loop": self._loops}
        parts |= {"peers": self._peers} if self.options.against else {}
        asked = self.options.only or parts
        if absent := [part for part in asked if part not in parts]:
            self.notes.append(f"the recipe has no teacher, and so no {', '.join(absent)}")
        return [stage for part, made in parts.items() if part in asked for stage in made()]

    @cached_property
    def teacher(self) -> AnyFrozen:
        """The recipe's, as it runs it."""
        return self._teacher(self.plan)

    @cached_property
    def online(self):
        """A step of the recipe as it is, of the student alone where it has no teacher."""
        teach = self._taught_by(self.teacher, self.plan) if self.taught else _untaught
        return self._step(self.plan.recipe, teach)

    def _stage(self, key: str, name: str, work: Any, before: Any = keep_freed_memory) -> Stage:
        return Stage(
            key=key,
            name=name,
            take=timed(work, self.accelerator.device),
            images=self.plan.layout.batch_size,
            before=before,
        )

    def _step(self, recipe: Recipe, teach: Teaching, *, plain: bool = False):
        return step(recipe, self.plan, teach, self.batches, self.accelerator, self.run, plain=plain)

    def _teacher(self, plan: Plan, runtime: str | None = None) -> AnyFrozen:
        recipe = with_compiled_teacher(plan.recipe, self.run, self.accelerator)
        teacher = recipe.teacher
        assert teacher is not None
        here = teacher.weights_here()
        if not here and runtime is None:
            self.notes.append(f"the weights of {teacher.name} are not on this machine; random ones stand in")
        if runtime is not None:
            recipe = replace(recipe, teacher=replace(teacher, runtime=runtime))
        layers = plan.objective.teacher_layers
        head = random_head(plan)
        return make_teacher(
            recipe, self.accelerator, self.console, layers=layers, head=head, images=plan.train, pretrained=here
        )

    def _taught_by(self, teacher: AnyFrozen, plan: Plan, *, plain: bool = False) -> Teaching:
        layers = plan.objective.teacher_layers

        def teach(ready: Ready):
            with self.accelerator.autocast():
                return teacher(ready.plain if plain else ready.images, layers, 0)

        return teach

    def _student(self) -> list[Stage]:
        return [self._stage("student", "student alone", self._step(self.plan.recipe.without_teacher(), _untaught))]

    def _teachers(self) -> list[Stage]:
        """The teacher's forward as the recipe runs it, and in the other ways that are asked for."""
        ready = {"teacher": self.teacher}
        for runtime in self.options.runtimes if isinstance(self.plan.recipe.teacher, Teacher) else ():
            try:
                other = self._teacher(self.plan, runtime)
            except ValueError as error:
                self.notes.append(f"teacher on {runtime}: {error}")
                continue
            if other.runtime_note.split(" ")[0] != self.teacher.runtime_note.split(" ")[0]:
                ready[f"teacher_{runtime}"] = other
        stages = []
        for key, teacher in ready.items():
            teach, batches = self._taught_by(teacher, self.plan), _forever(self.batches)
            stages.append(self._stage(key, f"teacher: {teacher.runtime_note}", lambda t=teach, b=batches: t(next(b))))
        return stages

    def _onlines(self) -> list[Stage]:
        """The online step, and if it reads features the step without those losses, to see what they cost."""
        online = self._stage("online", "online step", self.online)
        kept = {name: loss for name, loss in self._losses() if not loss.needs.teacher_layers}
        left_out = [name for name, _ in self._losses() if name not in kept]
        if not left_out or not any(loss.needs.teacher for loss in kept.values()):
            return [online]
        plan = self._with_losses(kept)
        teacher = self._teacher(plan)  # on a runtime that hands out no features
        name = f"online step without {', '.join(left_out)}"
        return [online, self._stage("online_logits", name, self._step(plan.recipe, self._taught_by(teacher, plan)))]

    def _losses(self):
        return [(name, loss) for name, loss in self.plan.recipe.losses.items() if loss.weight]

    def _with_losses(self, losses: dict) -> Plan:
        return preflight.check(replace(self.plan.recipe, losses=losses))

    def _saved(self) -> list[Stage]:
        """A step from saved outputs, of the losses that these are enough for."""
        losses, others = served(self.plan)
        if not any(loss.needs.teacher for loss in losses.values()):
            self.notes.append("saved outputs: no loss of the recipe can be taught by them")
            return []
        plan = self._with_losses(losses)
        saved = save_batches(plan, self.teacher, self.batches, self.accelerator, self.aside / "saved")
        name = "step from saved outputs" + (f" without {', '.join(others)}" if others else "")
        return [self._stage("saved", name, self._step(plan.recipe, lambda ready: saved(ready.batch)))]

    @cached_property
    def workers(self) -> int:
        """Loader processes, as many as the run would have."""
        return default_workers(1) if self.options.workers is None else self.options.workers

    def _loader(self) -> list[Stage]:
        kind = {0: "in the process", 1: "1 process"}.get(self.workers, f"{self.workers} processes")
        take, size = loading(self.plan, self.workers), self.plan.layout.batch_size
        return [Stage(key="loader", name=f"loader alone, {kind}", take=take, images=size, settles=False)]

    def _loops(self) -> list[Stage]:
        """The whole loop, and on a GPU, or where it is asked for, with the next batch looked ahead for as well."""
        teacher = self.teacher if self.taught else None

        def whole(key: str, name: str, run: RunOptions) -> Stage:
            return Stage(
                key=key,
                name=name,
                take=looping(self.plan, teacher, self.accelerator, run, self.workers),
                images=self.plan.layout.batch_size,
                paced_by="online" if self.taught else "student",
                before=keep_freed_memory,
                settles=False,  # it has its own first steps
                fewest=FEWEST,
            )

        stages = [whole("loop", "whole loop", self.run)]
        if self.options.overlap or self.accelerator.device.type == "cuda":
            streams_for(teacher, self.accelerator.device, self.notes.append)
            stages.append(whole("loop_overlapped", "whole loop, overlapped", replace(self.run, overlap=True)))
        return stages

    def _plain_teacher(self, plan: Plan) -> FrozenTeacher:
        """As timm builds it, not started on any runtime."""
        config, head = plan.recipe.teacher, random_head(plan)
        assert isinstance(config, Teacher)
        assert not isinstance(head, tuple)
        plain = config.build(head=head, layers=(), pretrained=config.weights_here())
        return plain.to(self.accelerator.device)

    def _peers(self) -> list[Stage]:
        """Ours and theirs on the same job, if their first loss is ours."""
        recipe = same_job(self.plan.recipe)
        if not isinstance(recipe.teacher, Teacher) or not self.plan.labelled:
            self.notes.append("peers: they are given one timm teacher and labels, and this recipe has not both")
            return []
        plan = preflight.check(recipe)
        teacher, taught = self._teacher(plan), self._plain_teacher(plan)
        assert isinstance(teacher, FrozenTeacher)
        _same_weights(taught, teacher)

        def ours() -> Step:
            return self._step(plan.recipe, self._taught_by(teacher, plan, plain=True), plain=True)

        first = losses_of(ours())
        stages = [self._stage("ours", "ours, the job of the peers", ours())]
        for key in self.options.against:
            name, make = PEERS[key]

            def theirs(make=make) -> Step:
                return make(plan.recipe, taught, self.batches, self.accelerator, self.options.compile)

            try:
                losses = losses_of(theirs())
            except ImportError as error:
                self.notes.append(f"{name}: {error}; pip install {key}")
                continue
            off = said_differently(plan.recipe, teacher, taught, self.batches[0].plain)
            figures = f"logits of the teacher off by {off:.0e}, first loss {losses:.6f} and ours {first:.6f}"
            if off > CLOSE or abs(losses - first) > CLOSE * abs(first):
                self.notes.append(f"{name} is left out, for it does another job: {figures}")
                continue
            self.notes.append(f"{name}: {figures}")
            # In a program of its own a peer has the C library as it is.
            stages.append(self._stage(f"peer_{key}", name, theirs(), before=give_freed_memory_back))
        return stages


def _same_weights(plain: FrozenTeacher, teacher: FrozenTeacher) -> None:
    """Where random weights stand in, the peers' are ours."""
    plain.load_state_dict(teacher.state_dict(), strict=False)


def _untaught(ready: Ready) -> None:
    return None


def _forever(batches: Sequence[Ready]):
    while True:
        yield from batches
