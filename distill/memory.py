"""Running out of GPU memory: the same global batches in more accumulation steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.failures import Failed

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.options import RunOptions
    from distill.preflight import Plan


def check(options: RunOptions, accelerator: Accelerator) -> None:
    """ValueError if this run cannot go on by itself after it ran out of memory."""
    if options.auto_accumulate and accelerator.num_processes > 1:
        # The others wait in the middle of a step for one that ran out of memory, and cannot be told to begin it anew.
        raise ValueError(
            "--auto-accumulate is for one process; with several, use accelerate launch --gradient_accumulation_steps N"
        )


def more_steps(plan: Plan) -> int | None:
    """The fewest accumulation steps, at least twice as many, that divide the plan's global batch; None if none do."""
    layout = plan.layout
    whole = 2 if plan.recipe.views.mixes else 1  # mixing needs pairs
    candidates = range(2 * layout.accumulate, layout.batch_size // layout.processes + 1)
    return next((n for n in candidates if layout.batch_size % (layout.processes * n * whole) == 0), None)


def advice(plan: Plan) -> Failed:
    """What is said where nothing is done about it."""
    layout, steps = plan.layout, more_steps(plan)
    found = f"{layout.part} images at a time do not fit into the GPU's memory"
    if steps is None:
        return Failed(f"{found}, and they cannot be fewer; use a smaller student, teacher or image size")
    part = layout.batch_size // (layout.processes * steps)
    return Failed(
        f"{found}; the same global batch of {layout.batch_size} is {layout.processes} × {steps} × {part} images with "
        f"accelerate launch --gradient_accumulation_steps {steps}, which --auto-accumulate does by itself"
    )
