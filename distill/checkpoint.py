"""Checkpoints: written aside, flushed, renamed, and believed only if every checksum is right; the newest two stay."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill import disk
from distill.processes import from_main

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

KEPT = 2
CHECKSUMS = "checksums.sha256"  # `sha256sum -c` reads it too
STATE = "run.json"
AVERAGE = "average.safetensors"
SCALER = "scaler.pt"  # accelerate's name


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a run goes on from: the steps done, those of them that were skipped, and what there is to say about it."""

    step: int = 0
    skipped: int = 0
    notes: tuple[str, ...] = ()


def save(
    accelerator: Accelerator, folder: Path, step: int, *, average: nn.Module | None = None, skipped: int = 0
) -> None:
    """Write all that a run needs to go on after `step` steps: weights, optimiser, scaler, moving average.

    The folder's parent must be there: a run folder that was removed is not made again from the middle of a run.
    """
    final = folder / f"step_{step:09d}"
    aside = folder / f"{final.name}.partial"
    if accelerator.is_main_process:
        folder.mkdir(exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
    accelerator.wait_for_everyone()
    accelerator.save_state(str(aside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if average is not None:
            _save_average(average, aside / AVERAGE)
        (aside / STATE).write_text(json.dumps({"step": step, "skipped": skipped}) + "\n", encoding="utf-8")
        for weights in aside.rglob("*.safetensors"):
            shutil.copymode(aside / STATE, weights)  # safetensors lets only the owner read, whatever the umask
        _seal(aside)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        disk.flush(folder)
        for old in _named(folder)[:-KEPT]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def latest_step(folder: Path) -> int:
    """The step of the newest checkpoint; 0 if there is none. Its checksums are not looked at."""
    named = _named(folder)
    return _step(named[-1]) if named else 0


def load(
    accelerator: Accelerator, folder: Path, *, average: nn.Module | None = None, before: int | None = None
) -> Restored:
    """Restore the newest checkpoint that is whole, and of fewer steps than `before`; step 0 if there is none.

    ValueError for one whose checksums are right and that cannot be loaded all the same: nothing in it is executed.
    """
    found: Restored = from_main(accelerator, lambda: _newest_whole(folder, before))
    if found.step:
        path = folder / f"step_{found.step:09d}"
        if accelerator.scaler is not None and not (path / SCALER).is_file():
            raise ValueError(
                f"{path} was written without the loss scaler that mixed precision fp16 goes on with; "
                "use the precision that it was written in, or start over with --resume never"
            )
        try:
            accelerator.load_state(str(path))
            accelerator.step = 0  # micro-batches; it would go on counting in those of the launch that wrote it
            if average is not None:
                _load_average(average, path / AVERAGE)
        except Exception as error:  # readers raise whatever they stumble over
            raise ValueError(
                f"{path} cannot be loaded though its checksums are right ({_first_line(error)}); "
                "if this version wrote it, remove it, and the same command goes on from the one before"
            ) from error
    return found


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's files, in a phrase; None if each is as it was written."""
    try:
        lines = (path / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return f"it has no readable {CHECKSUMS}"
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if STATE not in expected:
        return f"{CHECKSUMS} is cut short"
    for name, digest in expected.items():
        file = path / name
        if Path(name).is_absolute() or ".." in Path(name).parts or not file.is_file():
            return f"{name} is missing"
        if _sha256(file) != digest:
            return f"{name} does not match its checksum"
    return None


def _newest_whole(folder: Path, before: int | None) -> Restored:
    notes = []
    for path in reversed(_named(folder)):
        if before is not None and _step(path) >= before:
            continue
        wrong = damage(path)
        if wrong is None:
            state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
            return Restored(step=_step(path), skipped=int(state.get("skipped", 0)), notes=tuple(notes))
        notes.append(f"checkpoint {path} is skipped: {wrong}")
    return Restored(notes=tuple(notes))


def _seal(folder: Path) -> None:
    # RNG states of other processes may not be in sight yet on a network disk, and nothing is drawn from them.
    found = sorted(path for path in folder.rglob("*") if not path.name.startswith("random_states"))
    files = [path for path in found if path.is_file()]  # DeepSpeed writes a folder of them
    text = "".join(f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)
    (folder / CHECKSUMS).write_text(text, encoding="utf-8")
    for path in (*found, folder / CHECKSUMS, folder):
        disk.flush(path)


def _save_average(average: nn.Module, file: Path) -> None:
    # Not registered with accelerate, which pickles what it does not know and runs what such a pickle says.
    from safetensors.torch import save_file

    save_file({name: value.detach().cpu().contiguous() for name, value in average.state_dict().items()}, file)


def _load_average(average: nn.Module, file: Path) -> None:
    from safetensors.torch import load_file

    average.load_state_dict(load_file(file))


def _named(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step_*") if path.suffix != ".partial" and path.is_dir())


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error).strip() else ''}"
