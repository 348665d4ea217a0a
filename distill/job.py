"""One run of a recipe, from its command line to its report."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import tyro

from distill.options import RunOptions
from distill.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.compare.runs import Row
    from distill.console import Console
    from distill.preflight import Plan


@dataclass(frozen=True)
class _Command:
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    options: Annotated[RunOptions, tyro.conf.arg(name="")]


def run(recipe: Recipe, args: Sequence[str] | None = None) -> Path:
    """Carry out a recipe, with overrides from `args` (None: the command line), and return its run folder.

    In this order: preflight, build, train or resume, evaluate, export, compare. What a user can mend ends the program
    with one line and exit code 2; a loss that is not finite with exit code 1.
    """
    script = Path(sys.argv[0])
    try:
        recipe, options = parse(
            recipe, args, prog=script.name, description=getattr(sys.modules["__main__"], "__doc__", None)
        )
        if options.alone:
            recipe = recipe.without_teacher()
        return _carry_out(recipe, options, Path(options.out or f"runs/{script.stem}{'-alone' * options.alone}"))
    except ValueError as error:
        # A loader process hands its error over with a traceback around it; the last line is ours.
        text = str(error)
        _fail(text.strip().splitlines()[-1].removeprefix("ValueError: ") if text.startswith("Caught") else text, 2)
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on from the last checkpoint", 130)


def parse(
    recipe: Recipe, args: Sequence[str] | None, *, prog: str, description: str | None
) -> tuple[Recipe, RunOptions]:
    """The recipe and options after overrides such as --optim.epochs 100. An unknown option ends the program."""
    command = tyro.cli(
        _Command,
        prog=prog,
        description=description,
        args=args,
        default=_Command(recipe, RunOptions()),
        console_outputs=_is_main(),
        config=(tyro.conf.AvoidSubcommands,),
    )
    return command.recipe, command.options


def _carry_out(recipe: Recipe, options: RunOptions, out: Path) -> Path:
    # Heavy imports wait until the options are known to be right.
    from distill import folder, preflight
    from distill.console import Console
    from distill.train import NonFiniteLoss

    console = Console(main=_is_main())
    if not options.dry_run:
        preflight.check_folder(out)
    accelerator = _accelerator(options, out)
    plan = preflight.check(
        recipe, processes=accelerator.num_processes, accumulate=accelerator.gradient_accumulation_steps
    )
    try:
        if options.dry_run:
            _rehearse(plan, options, accelerator, console)
            return out
        state = folder.claim(out, plan.recipe, options.resume)
        if state == "finished":
            console.say(f"{out} is finished; nothing to do. See {out / 'report.md'}, or start over with --resume never")
            return out
        accelerator.wait_for_everyone()
        if accelerator.is_main_process and state == "begin":
            folder.begin(out, plan.recipe)
        accelerator.wait_for_everyone()
        _distil(plan, options, accelerator, console, out)
        return out
    except NonFiniteLoss as error:
        _fail(str(error), 1)
    finally:
        accelerator.end_training()


def _distil(plan: Plan, options: RunOptions, accelerator: Accelerator, console: Console, out: Path) -> None:
    import students
    from distill.compare import report, runs
    from distill.teaching import fitted_head, make_teacher
    from distill.train import train
    from distill.views import val_transform

    recipe, workers = plan.recipe, _workers(options, accelerator)
    teacher = None
    console.summary(*_summary(plan, accelerator, out))
    if recipe.teacher:
        head = fitted_head(plan, out, accelerator, console, workers=workers)
        teacher = make_teacher(recipe, accelerator, console, layers=plan.objective.teacher_layers, head=head)
    if options.trackers:
        accelerator.init_trackers("distill", config={"run": str(out)})

    student = train(plan, teacher, accelerator, out, options, console, workers=workers)

    if accelerator.is_main_process:
        students.save(student, out / "student", label_names=plan.classes, crop_pct=recipe.views.crop_pct)
    accelerator.wait_for_everyone()

    # What is measured is what was exported.
    exported = students.load(out / "student").to(accelerator.device)
    candidates = [runs.student_candidate(exported, out, accelerator, baseline=teacher is None)]
    if teacher:
        candidates.insert(0, runs.teacher_candidate(teacher, accelerator))
    transform = val_transform(recipe.views, plan.recipe.view_size, recipe.student.in_chans)
    rows = runs.measure(candidates, plan.val, transform, accelerator, console)
    if accelerator.is_main_process:
        write_report(out, rows)
    console.show(report.table(rows))
    console.say(f"student: {out / 'student'}   report: {out / 'report.md'}")


def write_report(out: Path, rows: Sequence[Row]) -> None:
    """Write report.md and, last because it marks a run as finished, report.json."""
    from distill import folder
    from distill.compare import report, runs

    folder.write(out / "report.md", report.markdown(rows))
    folder.write(out / "report.json", runs.as_json(rows))


def _rehearse(plan: Plan, options: RunOptions, accelerator: Accelerator, console: Console) -> None:
    import torch

    from distill.teaching import make_teacher
    from distill.train import train
    from teachers import Head

    recipe, teacher = plan.recipe, None
    console.summary(*_summary(plan, accelerator, None))
    if recipe.teacher:
        head = None
        if recipe.teacher.head == "fit" and plan.teacher:
            console.say("rehearsal: the teacher's head is not fitted but zero")
            shape = plan.teacher.num_classes, plan.teacher.embedding
            head = Head(torch.zeros(shape), torch.zeros(shape[0]), l2=0, heldout_top1=0, heldout_nll=0)
        teacher = make_teacher(recipe, accelerator, console, layers=plan.objective.teacher_layers, head=head)
    with tempfile.TemporaryDirectory() as aside:
        began = time.perf_counter()
        quiet = replace(options, log_every_steps=plan.layout.steps + 1)
        train(plan, teacher, accelerator, Path(aside), quiet, console, workers=0, stop_step=2)
        seconds = (time.perf_counter() - began) / min(2, plan.layout.steps)
    console.say(
        f"rehearsal: {plan.layout.batch_size / seconds:.0f} images/s over two steps, start-up included; "
        f"at most {seconds * plan.layout.steps / 3600:.1f} h for {plan.layout.steps:,} steps. Nothing was written"
    )


def _accelerator(options: RunOptions, out: Path) -> Accelerator:
    import torch
    from accelerate import Accelerator
    from accelerate.tracking import filter_trackers

    from distill.loader import cores

    accelerator = Accelerator(project_dir=str(out))
    # Not before: accelerate's own messages need an Accelerator, which must be the first to look at the processes.
    accelerator.log_with = filter_trackers(list(options.trackers), accelerator.logging_dir)
    usable = {str(getattr(tracker, "value", tracker)) for tracker in accelerator.log_with}
    for tracker in options.trackers:
        if tracker not in usable:
            raise ValueError(f"tracker '{tracker}' is not installed; pip install {tracker}, or leave it out")
    if accelerator.device.type == "cpu":
        # Launchers set one thread a process; on a CPU that leaves the other cores idle.
        torch.set_num_threads(options.threads or max(cores() // _processes_here(), 1))
    return accelerator


def _processes_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _workers(options: RunOptions, accelerator: Accelerator) -> int:
    from distill.loader import default_workers

    return default_workers(_processes_here()) if options.workers is None else options.workers


def _summary(plan: Plan, accelerator: Accelerator, out: Path | None) -> tuple[str, list[tuple[str, str]]]:
    recipe, layout = plan.recipe, plan.layout
    student = recipe.student
    rows = []
    if recipe.teacher and plan.teacher:
        fitted = ", head fitted on your classes" if recipe.teacher.head == "fit" else ""
        rows.append(("teacher", f"{recipe.teacher.name} ({recipe.teacher.weights_source()}{fitted})"))
    params = sum(parameter.numel() for parameter in plan.objective.student.parameters())
    height, width = student.img_hw
    token = ", distillation token" if student.distilled else ""
    rows += [
        ("student", f"ViT {student.depth} × {student.embed_dim}, {params / 1e6:.2f} M parameters{token}"),
        ("images", f"{height}×{width} px, {student.in_chans} channels, patch {'×'.join(map(str, student.patch_hw))}"),
        ("data", f"{len(plan.train):,} to train on, {len(plan.val):,} to validate on, {len(plan.classes)} classes"),
        (
            "batch",
            f"{layout.batch_size} = {layout.processes} processes × {layout.accumulate} accumulated × {layout.part}",
        ),
        ("steps", f"{layout.steps:,} in {layout.epochs} epochs"),
        ("runs on", f"{accelerator.device.type}, mixed precision {accelerator.mixed_precision}"),
    ]
    for name, loss in plan.objective.losses.items():
        rows.append((f"loss {name}", f"{loss.weight:g} × {type(loss).__name__}: {loss.needs.reads()}"))
    for name, projection in plan.objective.projections.items():
        count = sum(parameter.numel() for parameter in projection.parameters())
        rows.append((f"  {name} projects", f"{count / 1e3:.1f} k parameters, not exported"))
    return str(out or "rehearsal"), rows


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _fail(message: str, code: int) -> NoReturn:
    if _is_main():
        print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
