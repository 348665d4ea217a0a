"""One distillation in its run folder: teacher, training, student, report; in smaller parts where memory runs out."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from distill.options import RunOptions
from distill.signals import Signals

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.console import Console
    from distill.preflight import Plan
    from distill.saved.reader import SavedOutputs


def begin_or_go_on(
    plan: Plan,
    options: RunOptions,
    accelerator: Accelerator,
    console: Console,
    out: Path,
    saved: SavedOutputs | None,
    signals: Signals,
    held: ExitStack,
) -> None:
    """Distil in a run folder that is claimed here, and held until `held` is closed; nothing where that was done before.

    Failed where a GPU's memory does not suffice, even for the smaller parts that --auto-accumulate allows.
    """
    from torch.cuda import OutOfMemoryError

    from distill import folder, memory, place, preflight
    from distill.console import clock
    from distill.processes import from_main
    from distill.summary import peak_memory

    began = time.perf_counter()
    state, note = from_main(accelerator, lambda: folder.hold(out, plan, options, saved, held))
    if state == "finished":
        console.say(f"{out} is finished; nothing to do. See {out / 'report.html'}, or start over with --resume never")
        return
    folder.wait_to_see(out)
    if note:
        console.say(note)
    while True:
        try:
            _distil(plan, options, accelerator, console, out, saved, signals)
            break
        except OutOfMemoryError as error:
            steps = memory.more_steps(plan) if options.auto_accumulate else None
            if steps is None:
                raise memory.advice(plan) from error
        # Only here, for with the error goes all that it held on to.
        console.say(
            f"{plan.layout.part} images do not fit into the GPU's memory: {steps} accumulation steps from here on"
        )
        accelerator.free_memory()
        accelerator.gradient_accumulation_steps = steps
        plan = preflight.check(plan.recipe, processes=accelerator.num_processes, accumulate=steps)
        plan = saved.shown_in(plan) if saved else plan
    since = " since it went on" if state == "resume" else ""
    memory_held = peak_memory(loaders=place.workers(options) > 0)
    console.say(f"took {clock(time.perf_counter() - began)}{since}{memory_held}")


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
    from distill import allocator, place
    from distill.compare.carry_out import at_the_end_of_a_run
    from distill.compare.models import student_candidate, teacher_candidate, weights_file
    from distill.compare.terms import of_views
    from distill.compare.validation import Validation, data_name
    from distill.compiling import with_compiled_teacher
    from distill.passed_over import FILE, list_bad
    from distill.summary import pairs_table, rows
    from distill.teaching import fitted_head, make_teacher
    from distill.train import train

    recipe, workers = plan.recipe, place.workers(options)
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
    console.say(f"student: {out / 'student'}")
    console.say(f"report: {out / 'report.html'}")
