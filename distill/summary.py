"""What a run is about to do, and what it took, for a person to read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from distill.losses.schedule import CONSTANT, Schedule
from distill.preflight import Plan

if TYPE_CHECKING:
    from accelerate import Accelerator


def rows(plan: Plan, accelerator: Accelerator) -> list[tuple[str, str]]:
    """Names and values: teacher, student, data, batch, device, and what each loss reads."""
    recipe, layout = plan.recipe, plan.layout
    student = recipe.student
    shown = []
    if recipe.teacher and plan.teacher:
        fitted = ", head fitted on your classes" if recipe.teacher.head == "fit" else ""
        fitted += ", its classes mapped to yours" if getattr(recipe.teacher, "class_map", None) else ""
        shown.append(("teacher", f"{recipe.teacher.name} ({recipe.teacher.weights_source()}{fitted})"))
    params = sum(parameter.numel() for parameter in plan.objective.student.parameters())
    height, width = student.img_hw
    patch = "×".join(map(str, student.patch_hw))
    token = ", distillation token" if student.distilled else ""
    shown += [
        ("student", f"ViT {student.depth} × {student.embed_dim}, {params / 1e6:.2f} M parameters{token}"),
        (
            "images",
            f"{height}×{width} px, {'grey' if student.in_chans == 1 else 'colour'}, in patches of {patch}",
        ),
        ("data", f"{len(plan.train):,} to train on, {len(plan.val):,} to validate on, {_classes(plan)}"),
        *(("", note) for note in _notes(plan)),
        ("batch", _batch(plan)),
        ("steps", f"{layout.steps:,} in {layout.epochs} epoch{'s' * (layout.epochs != 1)}{_by_images(plan)}"),
        ("runs on", f"{accelerator.device.type}, mixed precision {accelerator.mixed_precision}"),
    ]
    for name, loss in plan.objective.losses.items():
        reads = loss.needs.reads(has_token=student.distilled)
        scheduled = _scheduled(getattr(loss, "schedule", CONSTANT))
        shown.append((f"loss {name}", f"{loss.weight:g} × {type(loss).__name__}{scheduled}: {reads}"))
    for name, projection in plan.objective.projections.items():
        count = sum(parameter.numel() for parameter in projection.parameters())
        shown.append((f"  {name} projects", f"{count / 1e3:.1f} k parameters, not exported"))
    return shown


def _notes(plan: Plan) -> tuple[str, ...]:
    notes = getattr(plan.recipe.data, "notes", None)  # which a data set of one's own need not have
    return notes(plan.train, plan.val) if notes else ()


def _by_images(plan: Plan) -> str:
    return ", as many as suit this number of images (--optim.epochs)" if plan.epochs_by_images else ""


def _classes(plan: Plan) -> str:
    if plan.labelled:
        return f"{len(plan.classes)} classes"
    without = "labels" if plan.val_labelled else "labels, so validated by agreement with the teacher"
    return f"{plan.recipe.student.known_classes()} classes of the teacher; no {without}"


def _scheduled(schedule: Schedule) -> str:
    if schedule.name == "constant":
        return ""
    how = "rising" if schedule.name == "warmup" else "falling"
    part = "the run" if schedule.over == 1 else f"the first {schedule.over:.1%} of the run"
    return f" ({how} over {part})"


def pairs_table(plan: Plan) -> Table | None:
    """What every loss on features compares, a pair a row; None where no loss reads features."""
    table = Table(box=None, pad_edge=False)
    for column in ("pairs of", "student layer", "teacher layer", "projection", "resized"):
        table.add_column(column, style="cyan" if column == "pairs of" else None, overflow="fold")
    for name, pairs in plan.objective.pairs().items():
        for pair in pairs:
            table.add_row(escape(name), *pair.columns())
    return table if table.row_count else None


def _batch(plan: Plan) -> str:
    layout = plan.layout
    parts = [f"{layout.processes} processes"] if layout.processes > 1 else []
    parts += [f"{layout.accumulate} accumulated"] if layout.accumulate > 1 else []
    return f"{layout.batch_size} images" + (f" = {' × '.join([*parts, str(layout.part)])}" if parts else "")


def peak_memory(*, loaders: bool) -> str:
    """The most memory that this process and, with `loaders`, the largest of them held, in a phrase; empty on Windows.

    Pages that the two share are counted in both, so their sum is more than the run held.
    """
    own, loader = peak_bytes(), peak_bytes(loaders=True)
    if not own:
        return ""
    if not loaders:
        return f", with at most {own / 2**30:.1f} GiB of memory"
    return f", with at most {own / 2**30:.1f} GiB of memory and {loader / 2**30:.1f} GiB in a loader, partly shared"


def peak_bytes(*, loaders: bool = False) -> int:
    """The most memory that this process, or its largest loader, held; 0 on Windows."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_CHILDREN if loaders else resource.RUSAGE_SELF).ru_maxrss * unit
