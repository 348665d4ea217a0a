"""What clusters, disks and people do to runs; each fault says what was wrong with how it was taken, or None."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.torture import child
from tests.torture.small import Place, Started, differences, metrics, one_line

Fault = Callable[[Place, Path], str | None]
SIX = ("--optim.epochs", "2", "--checkpoint-every-steps", "6", "--workers", "2")


def signalled(number: signal.Signals) -> Fault:
    """A signal to the run and to its loader processes, as a cluster sends it."""

    def fault(place: Place, out: Path) -> str | None:
        run = place.start(out, *SIX)
        run.until(lambda: run.steps() >= 9)
        os.killpg(run.process.pid, number)
        code = run.wait()
        if code != 128 + number:
            return f"exit code {code}: {run.said[-500:]}"
        return one_line([run], "which is saved; the same command goes on") or goes_on(place, out)

    return fault


def signalled_before_training(place: Place, out: Path) -> str | None:
    run = place.start(out, *SIX, environment={"DISTILL_CACHE": str(out)})
    run.until(lambda: (out / ".lock").exists())
    os.kill(run.process.pid, signal.SIGTERM)
    code = run.wait()
    return f"exit code {code}" if code != 143 else one_line([run], "SIGTERM") or goes_on(place, out)


def second_run(place: Place, out: Path) -> str | None:
    first = place.start(out, *SIX)
    first.until(lambda: first.steps() >= 3)
    os.kill(first.process.pid, signal.SIGSTOP)
    second = place.run(out, *SIX)
    never = place.run(out, *SIX, "--resume", "never")
    os.kill(first.process.pid, signal.SIGCONT)
    first.wait()
    for run in (second, never):
        if wrong := ended(run, 2, f"a run in {out} is under way (process {first.process.pid} on"):
            return wrong
    return same(place, out)


def torn_checkpoint(place: Place, out: Path) -> str | None:
    killed_at(place, out, 15)
    newest = sorted((out / "checkpoints").glob("step_*[0-9]"))[-1]
    file = newest / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    run = place.run(out, *SIX)
    if f"checkpoint {newest} is skipped: model.safetensors does not match its checksum" not in run.said:
        return run.said
    return same(place, out)


def both_checkpoints_torn(place: Place, out: Path) -> str | None:
    killed_at(place, out, 15)
    for file in (out / "checkpoints").glob("step_*/checksums.sha256"):
        file.write_bytes(file.read_bytes()[:40])
    run = place.run(out, *SIX)
    return run.said if run.said.count("is skipped: checksums.sha256 is cut short") != 2 else same(place, out)


def malicious(name: str) -> Fault:
    """A pickle that runs a command, in the place of a file of the newest checkpoint, with a checksum that is right."""

    def fault(place: Place, out: Path) -> str | None:
        killed_at(place, out, 15)
        newest = sorted((out / "checkpoints").glob("step_*[0-9]"))[-1]
        ran = out.parent / "ran"
        (newest / name).write_bytes(pickle_that_runs(f"touch {ran}"))
        seal(newest)
        run = place.run(out, *SIX)
        if ran.exists():
            return "its code ran"
        shutil.rmtree(newest)
        return ended(run, 2, "cannot be loaded though its checksums are right") or goes_on(place, out)

    return fault


def file_too_large(place: Place, out: Path) -> str | None:
    run = place.run(out, *SIX, "--workers", "0", limit=40_000)
    return ended(run, 1, "the same command goes on") or goes_on(place, out)


def full_disk(place: Place, out: Path) -> str | None:
    out.parent.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(out.parent)], capture_output=True)
    if mounted.returncode:
        raise NotImplementedError("no right to mount")
    try:
        run = place.run(out, *SIX)
        wrong = ended(run, 1, "the same command goes on")
        subprocess.run(["mount", "-o", "remount,size=64m", str(out.parent)], check=True)
        return wrong or goes_on(place, out)
    finally:
        subprocess.run(["umount", str(out.parent)], check=True)


def folder_removed(place: Place, out: Path) -> str | None:
    run = place.start(out, *SIX)
    run.until(lambda: run.steps() >= 9)
    os.kill(run.process.pid, signal.SIGSTOP)
    shutil.rmtree(out)
    os.kill(run.process.pid, signal.SIGCONT)
    run.wait()
    return ended(run, 1, "No such file or directory") or goes_on(place, out)


def loader_killed(place: Place, out: Path) -> str | None:
    run = place.start(out, *SIX)
    run.until(lambda: run.steps() >= 9)
    for loader in children(run):
        os.kill(loader, signal.SIGKILL)
    run.wait()
    return ended(run, 1, "a loader process was killed") or goes_on(place, out)


def one_of_two_killed(place: Place, out: Path) -> str | None:
    ranks = place.pair(out, *SIX)
    ranks[0].until(lambda: ranks[0].steps() >= 9)
    ranks[1].kill()
    if ranks[0].wait() != 1:
        return f"exit code {ranks[0].process.exitcode}"
    # Of the killed one's loaders, whom nobody ends, one may say that its own connection broke.
    return one_line(ranks[:1], "the connection to another process is lost") or pair_goes_on(place, out)


def one_of_two_signalled(place: Place, out: Path) -> str | None:
    ranks = place.pair(out, *SIX)
    ranks[0].until(lambda: ranks[0].steps() >= 9)
    os.kill(ranks[1].process.pid, signal.SIGTERM)
    codes = [rank.wait() for rank in ranks]
    return f"exit codes {codes}" if codes != [143, 143] else one_line(ranks, "is saved") or pair_goes_on(place, out)


def one_of_two_fails(place: Place, out: Path) -> str | None:
    from distill.views import order

    image = int(order(0, 1, 640)[64 * 2 + 40])  # in the second half of a batch, which is the second process's
    recipe = place.here(child.with_a_broken_image(str(place.data), image))
    ranks = place.pair(out, "--workers", "0", recipe=recipe)
    codes = [rank.wait() for rank in ranks]
    if codes != [1, 2]:
        return f"exit codes {codes}: {ranks[0].said[-300:]} {ranks[1].said[-300:]}"
    return one_line(ranks, f"error: [rank 1] image {image} cannot be read")


def not_finite(kind: str) -> Fault:
    """A loss or a gradient that is NaN at step 14: refused, replayed, skipped."""

    def fault(place: Place, out: Path) -> str | None:
        from distill.views import order

        recipe = place.here(child.poisoned(kind=kind, step=14, steps=20))
        what = "loss poison" if kind == "value" else "the gradient"
        run = place.run(out, *SIX, recipe=recipe)
        if wrong := ended(run, 1, f"step 14: {what} is nan; no optimiser step was taken"):
            return wrong
        address = json.loads((out / "nonfinite_000000014.json").read_text())
        if address["images"] != [int(i) for i in order(0, 1, 640)[192:256]] or "--replay 14" not in run.said:
            return f"said {address} {run.said}"
        before = sorted(path.name for path in out.rglob("*"))
        for step, code, words in (("14", 1, f"step 14: {what} is nan"), ("13", 0, "step 13 is finite: loss ")):
            again = place.run(out, *SIX, "--replay", step, recipe=recipe)
            if again.process.exitcode != code or words not in again.said:
                return f"replay {step}: {again.said}"
        if sorted(path.name for path in out.rglob("*")) != before:
            return "a replay wrote"
        skipping = place.run(out, *SIX, "--skip-nonfinite", "1", recipe=recipe)
        if skipping.process.exitcode or "skipped step 14" not in skipping.said:
            return skipping.said
        line = next(line for line in metrics(out) if line["step"] == 14)
        return None if line.get("skipped") == 1 and "loss" not in line else f"metrics.jsonl says {line}"

    return fault


def not_finite_of_one(kind: str) -> Fault:
    """A loss or a gradient that is NaN on the second process alone: both stop before the step, or both leave it out."""

    def fault(place: Place, out: Path) -> str | None:
        recipe = place.here(child.poisoned(kind=kind, step=14, steps=20, rank=1))
        what = "loss poison" if kind == "value" else "the gradient"
        ranks = place.pair(out, *SIX, recipe=recipe)
        codes = [rank.wait() for rank in ranks]
        if codes != [1, 1]:
            return f"exit codes {codes}: {ranks[0].said[-300:]} {ranks[1].said[-300:]}"
        if wrong := one_line(ranks, f"step 14: {what} is nan; no optimiser step was taken"):
            return wrong
        skipping = place.pair(out, *SIX, "--skip-nonfinite", "1", recipe=recipe)
        codes = [rank.wait() for rank in skipping]
        line = next((line for line in metrics(out) if line["step"] == 14), {})
        return None if codes == [0, 0] and line.get("skipped") == 1 else f"{codes} {line} {skipping[0].said[-300:]}"

    return fault


def hostile_names(place: Place, out: Path) -> str | None:
    import numpy as np

    names = [
        "../../../escaped",
        "/escaped",
        "<script>alert(1)</script>",
        "a\nb",
        "\x1b[2J",
        "[red]",
        "CON",
        "..",
        "",
        " ",
    ]
    with np.load(place.data) as whole:
        place_of_hostile = out.parent / "hostile.npz"
        out.parent.mkdir(parents=True)
        np.savez(place_of_hostile, **{name: whole[name] for name in whole.files if name != "classes"}, classes=names)
    before = files(place.root, out)
    run = place.run(out, *SIX, "--data.path", str(place_of_hostile), "--teacher.head", "fit")
    if run.process.exitcode:
        return run.said[-500:]
    if "\x1b[2J" in run.said:
        return "a class name spoke to the terminal"
    return f"wrote {files(place.root, out) - before}" if files(place.root, out) - before else None


def files(root: Path, besides: Path) -> set[Path]:
    own = (besides, root / "cache", root / "logs")
    return {path for path in root.rglob("*") if not any(path.is_relative_to(folder) for folder in own)}


def data_changed(place: Place, out: Path) -> str | None:
    killed_at(place, out, 15)
    (out / "data.json").write_text('{"fingerprint": "of other files", "train": 650, "val": 200}')
    run = place.run(out, *SIX)
    return None if "650 -> 640 images to train on" in run.said else run.said


def no_memory(place: Place, out: Path) -> str | None:
    recipe = place.here(child.poisoned(kind="memory", fits=16))
    run = place.run(out, *SIX, recipe=recipe)
    words = "64 images at a time do not fit into the GPU's memory"
    if wrong := ended(run, 1, words):
        return wrong
    by_itself = place.run(out, *SIX, "--auto-accumulate", recipe=recipe)
    if by_itself.process.exitcode:
        return by_itself.said
    told = place.root / "told" / "run"
    place.run(told, *SIX, recipe=recipe, environment={"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"})
    found = differences(told, out)
    return f"differs in {', '.join(found)} from one that was told to" if found else None


ONE: dict[str, Fault] = {
    "SIGTERM to all its processes": signalled(signal.SIGTERM),
    "SIGINT to all its processes": signalled(signal.SIGINT),
    "SIGUSR1 to all its processes": signalled(signal.SIGUSR1),
    "SIGTERM before training": signalled_before_training,
    "a second run in the folder": second_run,
    "newest checkpoint torn": torn_checkpoint,
    "both checkpoints torn": both_checkpoints_torn,
    "malicious optimizer.bin": malicious("optimizer.bin"),
    "malicious average.safetensors": malicious("average.safetensors"),
    "malicious custom_checkpoint_0.pkl": malicious("custom_checkpoint_0.pkl"),
    "files limited to 40 kB": file_too_large,
    "disk full": full_disk,
    "folder removed": folder_removed,
    "loader process killed": loader_killed,
    "loss not finite": not_finite("value"),
    "gradient not finite": not_finite("gradient"),
    "data changed": data_changed,
    "hostile class names": hostile_names,
    "out of GPU memory": no_memory,
}
TWO: dict[str, Fault] = {
    "one of two processes killed": one_of_two_killed,
    "SIGTERM to one of two": one_of_two_signalled,
    "one of two fails alone": one_of_two_fails,
    "loss of one of two not finite": not_finite_of_one("value"),
    "gradient of one of two not finite": not_finite_of_one("gradient"),
}


def killed_at(place: Place, out: Path, steps: int) -> None:
    run = place.start(out, *SIX)
    run.until(lambda: run.steps() >= steps)
    run.kill()


def ended(run: Started, code: int, words: str) -> str | None:
    if run.process.exitcode != code:
        return f"exit code {run.process.exitcode}: {run.said[-500:]}"
    return one_line([run], words)


def goes_on(place: Place, out: Path) -> str | None:
    """What is wrong once the same command has gone on to the end."""
    run = place.run(out, *SIX)
    return same(place, out) if run.process.exitcode == 0 else f"does not go on: {run.said[-500:]}"


def same(place: Place, out: Path) -> str | None:
    whole = place.root / "whole" / "run"
    if not (whole / "report.json").is_file():
        place.run(whole, *SIX)
    if not (out / "report.json").is_file():
        return "it has no report"
    found = differences(whole, out)
    return f"differs in {', '.join(found)}" if found else None


def pair_goes_on(place: Place, out: Path) -> str | None:
    ranks = place.pair(out, *SIX)
    codes = [rank.wait() for rank in ranks]
    return f"does not go on: {codes} {ranks[0].said[-500:]}" if codes != [0, 0] else None


def children(run: Started) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()]


def pickle_that_runs(command: str) -> bytes:
    import pickle

    class Runs:
        def __reduce__(self):
            return os.system, (command,)

    return pickle.dumps(Runs())


def seal(checkpoint: Path) -> None:
    """Checksums that are right for what is in a checkpoint now."""
    import hashlib

    files = sorted(path for path in checkpoint.iterdir() if path.name != "checksums.sha256")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (checkpoint / "checksums.sha256").write_text("".join(lines))
