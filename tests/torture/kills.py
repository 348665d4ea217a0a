"""SIGKILL at random moments, and as a checkpoint is being written; in the end the run equals a whole one."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace

from tests.torture.small import Place, differences

Row = tuple[str, str | None]
"""What was done to a run, and what was wrong with it afterwards, None for nothing."""

KINDS = {
    "plain": ((), {}),
    "accumulated": ((), {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2"}),
    "saved": (("--losses.hint.weight", "0", "--losses.crd.weight", "0"), {}),
}


def killed(place: Place, kind: str, kills: int, seed: int, epochs: int = 4) -> Iterator[Row]:
    """Kill a run so many times; mixing, erasing, drop-path, EMA, CRD's memory and two loader processes are in it."""
    args, environment = KINDS[kind]
    args = (*args, "--optim.epochs", str(epochs), "--checkpoint-every-steps", "3")
    if kind == "saved":
        recipe = place.recipe()
        losses = {
            name: replace(loss, weight=0) if name in ("hint", "crd") else loss for name, loss in recipe.losses.items()
        }
        folder = place.root / f"outputs-{seed}"
        place.save(folder, replace(recipe, losses=losses))
        args = (*args, "--saved", str(folder))
    whole = place.root / f"{kind}-{seed}" / "whole" / "run"
    began = time.monotonic()
    done = place.run(whole, *args, "--workers", "0", environment=environment)
    duration = time.monotonic() - began
    if not (whole / "report.json").is_file():
        yield f"{kind}: a whole run", done.said
        return
    out, draw = place.root / f"{kind}-{seed}" / "killed" / "run", random.Random(seed)
    for number in range(kills):
        started = place.start(out, *args, "--workers", "2", environment=environment)
        if number % 4 == 3:
            # In the middle of a checkpoint: its folder aside is there.
            started.until(lambda out=out: any(out.glob("checkpoints/*.partial")))
            time.sleep(draw.uniform(0, 0.01))
        else:
            started.process.join(draw.uniform(0, duration))
        started.kill()
        if started.process.exitcode == 0:  # it was faster; the next kills meet a new run
            found = differences(whole, out)
            yield f"{kind}: SIGKILL", f"differs in {', '.join(found)}" if found else None
            out = out.parents[1] / f"killed-{number}" / "run"
        else:
            yield f"{kind}: SIGKILL", None if started.process.exitcode == -9 else started.said
    place.run(out, *args, "--workers", "2", environment=environment)
    found = differences(whole, out) if (out / "report.json").is_file() else ["no report"]
    yield f"{kind}: the end, bit for bit", f"differs in {', '.join(found)}" if found else None
