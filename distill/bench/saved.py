"""A step from saved outputs: real shards in a temporary folder, read as a run reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from distill.bench.steps import Ready
from distill.preflight import Plan
from distill.saved.command import SaveOptions
from distill.saved.fit import unserved
from distill.saved.reader import SavedOutputs
from distill.saved.saving import planned
from distill.saved.writer import write_shards

if TYPE_CHECKING:
    from accelerate import Accelerator

    from teachers.frozen_ensemble import AnyFrozen


def save_batches(
    plan: Plan, teacher: AnyFrozen, batches: Sequence[Ready], accelerator: Accelerator, folder: Path
) -> SavedOutputs:
    """What the teacher says of these batches, in the form that `python -m distill save` gives it by default."""
    layout = replace(plan.layout, images=len(batches) * plan.layout.batch_size)
    manifest = planned(replace(plan, layout=layout), SaveOptions(epochs=1), accelerator)
    folder.mkdir()
    manifest.write(folder)
    given = {batch.batch.position: batch for batch in batches}

    def rows(batch):
        with torch.no_grad(), accelerator.autocast():
            return manifest.answers.rows(teacher(given[batch.position].images))

    write_shards(list(manifest.shards(folder)), iter([batch.batch for batch in batches]), rows)
    return SavedOutputs(folder, manifest, accelerator.device, verify=False)


def served(plan: Plan) -> tuple[dict, list[str]]:
    """The losses for which saved outputs are enough, and the names of the others."""
    others = list(unserved(plan, embedding=False))
    return {name: loss for name, loss in plan.recipe.losses.items() if name not in others and loss.weight}, others
