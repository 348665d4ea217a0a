"""One run of a recipe, from its command line to its report."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from distill import failures, waiting
from distill.commandline import parse
from distill.options import RunOptions
from distill.recipe import Recipe, to_json
from distill.signals import Signals

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.console import Console
    from distill.preflight import Plan
    from distill.saved.manifest import Manifest
    from distill.saved.reader import SavedOutputs


def run(recipe: Recipe, args: Sequence[str] | None = None) -> Path:
    """Carry out a recipe, with overrides from `args` (None: the command line), and return its run folder.

    In this order: preflight, build, train or resume, evaluate, export, compare. What a user can mend ends the program
    with one line and exit code 2; what happened to the run, such as a loss that is not finite or a full disk, with
    exit code 1; SIGINT, SIGTERM and SIGUSR1 with 130, 143 and 138, after a checkpoint. With the environment variable
    DISTILL_TRACEBACK set, an error's traceback is shown instead of the line.
    """
    waiting.rest()
    script = Path(sys.argv[0])
    with failures.in_one_line("the run's options"):
        described = getattr(sys.modules["__main__"], "__doc__", None)
        recipe, options = parse(recipe, RunOptions(), args, prog=script.name, description=described)
    if options.alone:
        recipe = recipe.without_teacher()
    out = Path(options.out or f"runs/{script.stem}{'-alone' * options.alone}")
    command = shlex.join(["python", *(sys.argv if args is None else [sys.argv[0], *args])])
    keeps = not options.dry_run and options.replay is None
    with Signals(goes_on=keeps) as signals, failures.in_one_line(str(out)):
        return _carry_out(recipe, options, out, signals, command)


def _carry_out(recipe: Recipe, options: RunOptions, out: Path, signals: Signals, command: str) -> Path:
    # Heavy imports wait until the options are known to be right.
    from distill import launched, memory, preflight
    from distill.console import Console
    from distill.finite import NonFiniteLoss
    from distill.processes import from_main
    from distill.rehearsal import rehearse
    from distill.replay import replay

    console = Console(main=_is_main())
    preflight.check_options(options)
    accelerator = _accelerator(options, out)
    memory.check(options, accelerator)
    if options.dry_run and (line := launched.without_gpu(accelerator)):
        console.say(f"rehearsal: {line}; the run would be refused here")
    if options.dry_run and options.saved is None:
        recipe = _with_images(recipe, accelerator, console)
    plan = preflight.check(
        recipe, processes=accelerator.num_processes, accumulate=accelerator.gradient_accumulation_steps
    )
    launched.check_plan(plan, accelerator)
    saved = None
    if options.saved is not None:
        saved = _open_saved(Path(options.saved), plan, options, accelerator, console)
        plan = saved.shown_in(plan)
    # Not in a `finally`: one that fails speaks before it lets go of the connections of the others.
    with ExitStack() as held:
        try:
            if options.dry_run:
                rehearse(plan, options, accelerator, console, saved, workers=_workers(options, accelerator))
            elif options.replay is not None:
                from_main(accelerator, lambda: _check_replay(out, plan, options, saved))
                replay(plan, options, accelerator, console, out, saved)
            else:
                _begin_or_go_on(plan, options, accelerator, console, out, saved, signals, held)
        except NonFiniteLoss as error:
            again = "" if options.replay else f". To see it again: {command} --replay {error.step}"
            raise failures.Failed(f"{error}{again}") from error
        except BaseException:
            for tracker in accelerator.trackers:
                tracker.finish()
            raise
    accelerator.wait_for_everyone()  # one that leaves early takes the connections of the others with it
    accelerator.end_training()
    return out


def _begin_or_go_on(
    plan: Plan,
    options: RunOptions,
    accelerator: Accelerator,
    console: Console,
    out: Path,
    saved: SavedOutputs | None,
    signals: Signals,
    held: ExitStack,
) -> None:
    from distill import memory, preflight
    from distill.processes import from_main

    state, note = from_main(accelerator, lambda: _claim(out, plan, options, saved, held))
    if state == "finished":
        console.say(f"{out} is finished; nothing to do. See {out / 'report.html'}, or start over with --resume never")
        return
    if note:
        console.say(note)
    while not _distil_in_memory(plan, options, accelerator, console, out, saved, signals):
        steps = memory.more_steps(plan)
        assert steps is not None
        console.say(
            f"{plan.layout.part} images do not fit into the GPU's memory: {steps} accumulation steps from here on"
        )
        accelerator.free_memory()
        accelerator.gradient_accumulation_steps = steps
        plan = preflight.check(plan.recipe, processes=accelerator.num_processes, accumulate=steps)
        plan = saved.shown_in(plan) if saved else plan


def _distil_in_memory(
    plan: Plan,
    options: RunOptions,
    accelerator: Accelerator,
    console: Console,
    out: Path,
    saved: SavedOutputs | None,
    signals: Signals,
) -> bool:
    """Whether the memory sufficed. Failed where it did not, and nothing is to be done about it."""
    from torch.cuda import OutOfMemoryError

    from distill import memory

    try:
        _distil(plan, options, accelerator, console, out, saved, signals)
    except OutOfMemoryError as error:
        if not options.auto_accumulate or memory.more_steps(plan) is None:
            raise memory.advice(plan) from error
        return False  # with the error goes all that it held on to
    return True


def _with_images(recipe: Recipe, accelerator: Accelerator, console: Console) -> Recipe:
    from distill.processes import from_main
    from distill.standin import missing, stand_in, without_download

    reason = from_main(accelerator, lambda: missing(recipe.data))
    if reason is None:
        return replace(recipe, data=without_download(recipe.data))
    recipe, done = stand_in(recipe)
    console.say(f"rehearsal: {reason}. Until then {done}")
    return recipe


def _open_saved(
    folder: Path, plan: Plan, options: RunOptions, accelerator: Accelerator, console: Console
) -> SavedOutputs:
    from distill.processes import from_main
    from distill.saved.fit import checked
    from distill.saved.reader import SavedOutputs

    def look() -> Manifest:
        manifest = checked(folder, plan)
        if options.verify_saved == "start":
            SavedOutputs(folder, manifest, accelerator.device, verify=False).verify_all(console)
        return manifest

    manifest = from_main(accelerator, look)
    return SavedOutputs(folder, manifest, accelerator.device, verify=options.verify_saved == "use")


def _claim(
    out: Path, plan: Plan, options: RunOptions, saved: SavedOutputs | None, held: ExitStack
) -> tuple[str, str | None]:
    """What this run does in its folder, which is held until `held` is closed, and what there is to say of its data."""
    from distill import folder, lock, preflight
    from distill.saved.fit import check_source

    preflight.check_folder(out)
    if folder.claim(out, plan.recipe, options.resume) == "finished":
        return "finished", None
    held.enter_context(lock.locked(out))
    state = folder.claim(out, plan.recipe, options.resume)  # again, for a run that ended just now
    if state == "resume":
        check_source(out, saved)
        folder.write(out / "recipe.json", to_json(plan.recipe))  # which may pass over bad images from here on
    if state == "begin":
        folder.begin(out, plan.recipe)
        if saved:
            saved.note_in(out)
    return state, None if state == "finished" else folder.note_data(out, plan)


def _check_replay(out: Path, plan: Plan, options: RunOptions, saved: SavedOutputs | None) -> None:
    from distill import folder
    from distill.saved.fit import check_source

    assert options.replay is not None
    if not (out / "recipe.json").is_file():
        raise ValueError(f"{out} holds no run of which a step can be replayed; name one with --out")
    if options.replay > plan.layout.steps:
        raise ValueError(f"--replay is {options.replay} but the run has {plan.layout.steps} steps; use one of them")
    folder.claim(out, plan.recipe, "auto")
    check_source(out, saved)


def _distil(
    plan: Plan,
    options: RunOptions,
    accelerator: Accelerator,
    console: Console,
    out: Path,
    saved: SavedOutputs | None,
    signals: Signals,
) -> None:
    import students
    from distill import allocator
    from distill.compare.carry_out import at_the_end_of_a_run
    from distill.compare.models import student_candidate, teacher_candidate, weights_file
    from distill.compare.terms import of_views
    from distill.compare.validation import Validation, data_name
    from distill.compiling import with_compiled_teacher
    from distill.console import clock
    from distill.passed_over import FILE, list_bad
    from distill.summary import pairs_table, peak_memory, rows
    from distill.teaching import fitted_head, make_teacher
    from distill.train import train

    began = time.perf_counter()
    recipe, workers = plan.recipe, _workers(options, accelerator)
    teacher = None
    console.summary(str(out), rows(plan, accelerator), pairs_table(plan))
    if saved:
        console.say(f"teacher speaks from {saved.describe()}")
    elif recipe.teacher:
        head = fitted_head(plan, out, accelerator, console, workers=workers)
        layers = plan.objective.teacher_layers
        compiled = with_compiled_teacher(recipe, options, accelerator)
        teacher = make_teacher(compiled, accelerator, console, layers=layers, head=head, images=plan.train)
        console.say(f"teacher runs on {teacher.runtime_note}")
    if options.trackers:
        accelerator.init_trackers("distill", config={"run": str(out)})
    allocator.trim()  # what loading and fitting took, in pieces between which no batch would fit

    student = train(plan, teacher, accelerator, out, options, console, workers=workers, saved=saved, signals=signals)

    if accelerator.is_main_process:
        students.save(
            student,
            out / "student",
            label_names=plan.classes,
            crop_pct=recipe.views.crop_pct,
            interpolation=recipe.views.val_interpolation,
            view_size=recipe.view_size,
        )
    accelerator.wait_for_everyone()
    allocator.trim()

    # What is measured is what was exported.
    exported = students.load(out / "student").to(accelerator.device)
    seen = {"terms": of_views(recipe.views, recipe.view_size, recipe.student.in_chans), "names": plan.classes}
    candidates = [student_candidate(exported, out, accelerator, baseline=recipe.teacher is None, **seen)]
    if teacher:
        file = weights_file(recipe.teacher) if recipe.teacher else None
        candidates.insert(0, teacher_candidate(teacher, accelerator, file=file, **seen))
    images = Validation(data_name(recipe.data), plan.val, plan.classes)
    at_the_end_of_a_run(candidates, images, out, accelerator, console)
    if passed_over := list_bad(plan, accelerator, out):
        console.say(f"{passed_over:,} image{'s' * (passed_over > 1)} could not be read, passed over: {out / FILE}")
    if saved:
        console.say(f"the teacher was not loaded; python -m distill compare {out} measures it too")
    console.say(f"student: {out / 'student'}   report: {out / 'report.html'}")
    console.say(f"took {clock(time.perf_counter() - began)}{peak_memory(loaders=workers > 0)}")


def _accelerator(options: RunOptions, out: Path) -> Accelerator:
    import torch
    from accelerate import Accelerator
    from accelerate.tracking import filter_trackers

    from distill import launched
    from distill.allocator import keep_freed_memory
    from distill.loader import cores

    launched.check_packages()
    accelerator = Accelerator(project_dir=str(out))
    launched.check_place(accelerator, rehearsal=options.dry_run)
    # Not before: accelerate's own messages need an Accelerator, which must be the first to look at the processes.
    accelerator.log_with = filter_trackers(list(options.trackers), accelerator.logging_dir)
    usable = {str(getattr(tracker, "value", tracker)) for tracker in accelerator.log_with}
    for tracker in options.trackers:
        if tracker not in usable:
            raise ValueError(f"tracker '{tracker}' is not installed; pip install {tracker}, or leave it out")
    if accelerator.device.type == "cpu":
        # Launchers set one thread a process; on a CPU that leaves the other cores idle.
        torch.set_num_threads(options.threads or max(cores() // _processes_here(), 1))
        keep_freed_memory()
    return accelerator


def _processes_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _workers(options: RunOptions, accelerator: Accelerator) -> int:
    from distill.loader import default_workers

    return default_workers(_processes_here()) if options.workers is None else options.workers


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"
