"""Whether saved outputs fit a run: the same data, views and teacher, all of it there, enough for the losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from distill.preflight import Plan
from distill.recipe import differences
from distill.saved.manifest import TOLERANCE, Manifest, fingerprint, glimpse
from distill.saved.reader import AGAIN, RUN_FILE, SavedOutputs


def checked(folder: Path, plan: Plan) -> Manifest:
    """The manifest of the saved outputs of the plan's teacher on the plan's views.

    ValueError, naming the field, if they are of other views or another teacher, are not whole, or are not enough for a
    loss of the recipe.
    """
    if plan.recipe.teacher is None:
        raise ValueError("--saved gives a teacher's outputs but this run has no teacher; leave out --saved or --alone")
    manifest = Manifest.read(folder)
    check_fits(folder, manifest.fingerprint, fingerprint(plan))
    _check_sizes(folder, manifest, plan)
    _check_losses(manifest, plan)
    _check_whole(folder, manifest)
    check_glimpse(folder, manifest, plan)
    return manifest


def check_fits(folder: Path, found: Any, wanted: Any) -> None:
    """ValueError, naming the fields, where what a folder was saved for is not what is wanted."""
    changed = differences(found, wanted)
    if changed:
        raise ValueError(
            f"{folder} was saved for something else ({'; '.join(map(_short, changed[:3]))}"
            f"{' …' if len(changed) > 3 else ''}, saved -> wanted); save into another folder, or change that back"
        )


def check_glimpse(folder: Path, manifest: Manifest, plan: Plan) -> None:
    """ValueError if the first views are drawn differently here than where they were saved."""
    found, wanted = torch.tensor(manifest.glimpse), torch.tensor(glimpse(plan))
    if found.shape != wanted.shape or not torch.allclose(found, wanted, rtol=0, atol=TOLERANCE):
        raise ValueError(
            f"the views of {folder} were drawn differently: the first ones look other here; use the versions that it "
            f"was saved with ({_versions(manifest)}), or save again"
        )


def check_source(out: Path, saved: SavedOutputs | None) -> None:
    """ValueError if a begun run was not taught by these saved outputs, or by none where there are none now."""
    noted = _noted(out)
    now = saved.manifest.as_json() if saved else None
    changed = differences(noted, now)
    if changed and (noted is None or now is None):
        changed = ["--saved: no -> yes" if noted is None else "--saved: yes -> no"]
    if changed:
        raise ValueError(
            f"the run in {out} was not taught by what teaches now ({_short(changed[0])}); choose another with --out, "
            "or start over with --resume never"
        )


def _check_sizes(folder: Path, manifest: Manifest, plan: Plan) -> None:
    kept, layout, teacher = manifest.answers, plan.layout, plan.teacher
    assert teacher is not None
    check_fits(
        folder,
        {"num_classes": kept.num_classes, "positions": manifest.positions},
        {"num_classes": teacher.num_classes, "positions": layout.steps_per_epoch * layout.batch_size},
    )
    if kept.embedding not in (0, teacher.embedding):
        check_fits(folder, {"embedding": kept.embedding}, {"embedding": teacher.embedding})
    if manifest.shard_images % layout.batch_size:
        raise ValueError(
            f"{folder} has shards of {manifest.shard_images} images, which are no whole batches; save again"
        )


def _check_losses(manifest: Manifest, plan: Plan) -> None:
    for line in unserved(plan, embedding=bool(manifest.answers.embedding)).values():
        raise ValueError(line)


def unserved(plan: Plan, *, embedding: bool) -> dict[str, str]:
    """The losses of the plan that saved outputs are not enough for, each with a line that names the way out."""
    lines: dict[str, str] = {}
    for name, loss in plan.objective.losses.items():
        if loss.needs.teacher_layers:
            lines[name] = (
                f"loss '{name}' reads grids of the teacher, which are not saved; "
                f"use --losses.{name}.weight 0, or train without --saved"
            )
        elif loss.needs.embedding and loss.needs.teacher and not embedding:
            lines[name] = (
                f"loss '{name}' reads the teacher's embedding, which was not saved; "
                f"save again with --embedding, or use --losses.{name}.weight 0"
            )
    return lines


def _check_whole(folder: Path, manifest: Manifest) -> None:
    row_bytes = manifest.answers.bytes_per_image
    for shard in manifest.shards(folder):
        if not shard.is_whole(row_bytes):
            raise ValueError(
                f"{folder} is not whole: {shard.path.relative_to(folder)} is missing or cut short; {AGAIN}"
            )


def _short(change: str) -> str:
    return change if len(change) <= 160 else f"{change[:160]}…"


def _versions(manifest: Manifest) -> str:
    return ", ".join(f"{name} {text}" for name, text in manifest.made_with.get("versions", {}).items())


def _noted(out: Path) -> Any:
    file = out / RUN_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
