"""The run folder: whose it is, whether it is finished, and when it may be begun, resumed or begun anew."""

from __future__ import annotations

import json
import platform
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill import disk, lock
from distill.recipe import Recipe, differences, from_json, to_json

if TYPE_CHECKING:
    from distill.options import RunOptions
    from distill.preflight import Plan
    from distill.saved.reader import SavedOutputs

DATA = "data.json"
OURS = (
    "recipe.json",
    DATA,
    "metrics.jsonl",
    "checkpoints",
    "student",
    "teacher_head.safetensors",
    "saved_outputs.json",
)
FOUND = ("bad_images.txt",)
MANY = ("teacher_head_*.safetensors", "nonfinite_*.json")  # one a member of an ensemble, one a step
REPORTS = ("report.json", "report.md", "report.html")
TRACKERS = ("distill",)


def check_ours(out: Path) -> None:
    """ValueError if a folder holds other things than a run."""
    if not out.exists() or (out / "recipe.json").is_file() or (out / lock.FILE).is_file():
        return  # with a lock alone a run of ours was killed before it wrote its recipe
    if not out.is_dir():
        raise ValueError(f"{out} is a file and --out names a run folder; choose another")
    if any(out.iterdir()):
        raise ValueError(f"{out} is not empty and not a run folder; choose another with --out")


def claim(out: Path, recipe: Recipe, resume: Literal["auto", "never"]) -> Literal["begin", "resume", "finished"]:
    """Decide what a run in `out` does. ValueError if the folder holds other things or another recipe's run."""
    check_ours(out)
    if resume == "never" or not (out / "recipe.json").is_file():
        return "begin"
    changed = differences(_json(out / "recipe.json"), to_json(recipe))
    # A run that was stopped by a bad image had met none before, so it may go on and pass over it.
    changed = [change for change in changed if not change.startswith("data.on_bad: ")]
    if changed:
        raise ValueError(
            f"{out} holds a run of another recipe ({'; '.join(changed[:3])}{' …' if len(changed) > 3 else ''}); "
            "choose another with --out, or start over with --resume never"
        )
    ended = (*REPORTS, "student/config.json", "student/model.safetensors")  # of which a person may have lost some
    return "finished" if all((out / name).is_file() for name in ended) else "resume"


def begin(out: Path, recipe: Recipe) -> None:
    """Make `out` the folder of a new run: what an earlier run wrote goes, nothing else does."""
    for name in (*OURS, *FOUND, *REPORTS, *TRACKERS):
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for path in (path for pattern in MANY for path in out.glob(pattern)):
        path.unlink()
    write(out / "recipe.json", to_json(recipe))


def hold(
    out: Path, plan: Plan, options: RunOptions, saved: SavedOutputs | None, held: ExitStack
) -> tuple[str, str | None]:
    """What this run does in its folder, which is held until `held` is closed, and what there is to say of its data."""
    from distill import preflight
    from distill.saved.fit import check_source

    preflight.check_folder(out)
    if claim(out, plan.recipe, options.resume) == "finished":
        return "finished", None
    held.enter_context(lock.locked(out))
    state = claim(out, plan.recipe, options.resume)  # again, for a run that ended just now
    if state == "resume":
        check_source(out, saved)
        write(out / "recipe.json", to_json(plan.recipe))  # which may pass over bad images from here on
    if state == "begin":
        begin(out, plan.recipe)
        if saved:
            saved.note_in(out)
    return state, None if state == "finished" else note_data(out, plan)


def wait_to_see(out: Path, patience: float = 60.0) -> None:
    """Return once this host sees what the main process wrote into the run folder. ValueError where it never does.

    A network disk may take seconds. Found out at the end, a folder that is not shared would cost all the training.
    """
    until = time.monotonic() + patience
    while not (out / "recipe.json").is_file():
        if time.monotonic() > until:
            raise ValueError(
                f"the run folder {out} on {platform.node()} is not the main process's, whose files are not in it; "
                "name one with --out on storage that all machines share"
            )
        time.sleep(0.1)


def check_replay(out: Path, plan: Plan, options: RunOptions, saved: SavedOutputs | None) -> None:
    """ValueError unless the folder holds this recipe's run, and the run has the step that is to be replayed."""
    from distill.saved.fit import check_source

    assert options.replay is not None
    if not (out / "recipe.json").is_file():
        raise ValueError(f"{out} holds no run of which a step can be replayed; name one with --out")
    if options.replay > plan.layout.steps:
        raise ValueError(f"--replay is {options.replay} but the run has {plan.layout.steps} steps; use one of them")
    claim(out, plan.recipe, "auto")
    check_source(out, saved)


def note_data(out: Path, plan: Plan) -> str | None:
    """Keep what the data of a run is, and say, in a line, how it is not what it was; None where nothing changed."""
    now = {"fingerprint": plan.recipe.data.fingerprint(), "train": len(plan.train), "val": len(plan.val)}
    file = out / DATA
    before = _json(file) if file.is_file() else now
    if before != now or not file.is_file():
        write(file, now)
    if before == now:
        return None
    counts = [
        f"{before.get(split)} -> {now[split]} images to {what}"
        for split, what in (("train", "train on"), ("val", "validate on"))
        if before.get(split) != now[split]
    ]
    return (
        f"the data is not what it was when this run was here last ({', '.join(counts) or 'other files, as many'}); "
        "from here on the run follows what is there now, or start over with --resume never"
    )


def read_recipe(out: Path) -> Recipe:
    """The recipe of a run folder. ValueError if it is none."""
    try:
        recipe = from_json(_json(out / "recipe.json"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{out} is no run folder (it has no recipe.json); name one such as runs/quickstart") from None
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{out / 'recipe.json'} holds no recipe; name a run folder such as runs/quickstart")
    return recipe


def student_folder(place: Path) -> Path:
    """The folder of the model: of a run folder its student's, any other as it is. ValueError for a run without one."""
    if not (place / "recipe.json").is_file():
        return place
    if not (place / "student" / "config.json").is_file():
        raise ValueError(f"{place} has no student yet; run its recipe again to finish it")
    return place / "student"


def write(path: Path, value: Any) -> None:
    """Write JSON, or text as it is, aside and rename it, so that a reader never sees half of it."""
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    disk.replace_text(path, text)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error})") from None
