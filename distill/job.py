"""One run of a recipe: its command line, what it is made of, and what it is to do: distil, rehearse or replay."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from distill import failures, waiting
from distill.commandline import parse
from distill.options import RunOptions
from distill.recipe import Recipe
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
        with failures.until_unheard():
            recipe, options = parse(recipe, RunOptions(), args, prog=script.name, description=described)
    if options.alone:
        recipe = recipe.without_teacher()
    out = Path(options.out or f"runs/{script.stem}{'-alone' * options.alone}")
    command = shlex.join(["python", *(sys.argv if args is None else [sys.argv[0], *args])])
    keeps = not options.dry_run and options.replay is None
    with Signals(goes_on=keeps) as signals, failures.in_one_line(str(out)):
        return _carry_out(recipe, options, out, signals, command)


def _carry_out(recipe: Recipe, options: RunOptions, out: Path, signals: Signals, command: str) -> Path:
    from distill import early

    early.check(recipe, options, out)
    # Heavy imports wait until what can be known without them is known to be right.
    from distill import ahead, folder, launched, memory, place, preflight
    from distill.console import Console
    from distill.distillation import begin_or_go_on
    from distill.finite import NonFiniteLoss
    from distill.processes import from_main
    from distill.rehearsal import rehearse
    from distill.replay import replay

    console = Console(main=place.is_main())
    accelerator = place.accelerator(options, out)
    memory.check(options, accelerator)
    ahead.check(options, accelerator)
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
                rehearse(plan, options, accelerator, console, saved, workers=place.workers(options))
            elif options.replay is not None:
                from_main(accelerator, lambda: folder.check_replay(out, plan, options, saved))
                replay(plan, options, accelerator, console, out, saved)
            else:
                begin_or_go_on(plan, options, accelerator, console, out, saved, signals, held)
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
