"""Broken input, in one process for speed: never a traceback, never a hang, never a success where there can be none."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import struct
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.torture.faults import pickle_that_runs, seal
from tests.torture.small import Place

NUMBERS = ("-1", "nan", "-inf", "1e400", "x", "", "0x10", "--", "None None", "<script>", "../..", "[]")
WRONG: dict[str, tuple[str, ...]] = {
    "optim.epochs": ("0", "1.5", *NUMBERS),
    "optim.batch-size": ("0", "100000", "63", *NUMBERS),
    "optim.lr": ("0", "inf", *NUMBERS),
    "optim.min-lr": NUMBERS,
    "optim.warmup-lr": ("inf", *NUMBERS),
    "optim.warmup-epochs": ("99", "inf", *NUMBERS),
    "optim.weight-decay": ("inf", *NUMBERS),
    "optim.eps": ("inf", *NUMBERS),
    "optim.betas": ("1 1", "0.9", "0.9 -0.1", "nan nan", "0.9 0.9 0.9"),
    "optim.clip-grad": ("0", "-1", "nan", "x", ""),
    "optim.ema-decay": ("0", "1", "2", *NUMBERS),
    "views.scale": ("0 1", "1 0.5", "0.5 2", "nan nan", "1"),
    "views.ratio": ("0 1", "2 1", "1 inf", "nan 1"),
    "views.mixup": ("inf", *NUMBERS),
    "views.cutmix": ("inf", *NUMBERS),
    "views.hflip": ("1.1", *NUMBERS),
    "views.mix-prob": ("1.1", *NUMBERS),
    "views.re-prob": ("1.1", *NUMBERS),
    "views.crop-pct": ("0", "1.1", *NUMBERS),
    "views.img-size": ("0", "28 28 28", *NUMBERS),
    "views.auto-augment": ("nonsense", "none"),
    "student.img-size": ("0", "27", *NUMBERS),
    "student.patch-size": ("0", "5", *NUMBERS),
    "student.embed-dim": ("0", "15", *NUMBERS),
    "student.num-heads": ("0", "3", *NUMBERS),
    "student.num-classes": ("0", "7", *NUMBERS),
    "student.in-chans": ("0", "2", *NUMBERS),
    "student.drop-path-rate": ("1.5", *NUMBERS),
    "student.mlp-ratio": ("0", *NUMBERS),
    "losses.labels.weight": ("inf", *NUMBERS),
    "losses.labels.smoothing": ("1.5", *NUMBERS),
    "losses.hint.pairs": ("7 0", "0 99", "0", "a b"),
    "losses.dist.tau": ("0", *NUMBERS),
    "losses.dist.schedule.over": ("0", "2", *NUMBERS),
    "losses.crd.negatives": ("0", *NUMBERS),
    "losses.crd.dim": ("0", *NUMBERS),
    "losses.crd.temperature": ("0", *NUMBERS),
    "losses.crd.momentum": ("1", *NUMBERS),
    "teacher.name": ("", "nonsense", "local-dir:/nowhere", "../../etc", "/etc/passwd", "hf-hub:", "<script>", "a\nb"),
    "teacher.head": ("maybe", ""),
    "teacher.img-size": ("0", *NUMBERS),
    "teacher.checkpoint": ("/nowhere", "/etc/passwd", "/"),
    "teacher.class-map": ("/nowhere", "/etc/passwd"),
    "data.path": ("/etc/passwd", "/", ""),  # a dry run stands in for a file that is not there
    "log-every-steps": ("0", *NUMBERS),
    "checkpoint-every-steps": ("0", *NUMBERS),
    "threads": ("0", *NUMBERS),
    "workers": NUMBERS,
    "skip-nonfinite": NUMBERS,
    "resume": ("always", ""),
    "saved": ("/nowhere", "/etc", ""),
    "seed": ("x", "1.5", "nan"),
    "nonsense": ("1",),
    "optim.lrr": ("1",),
}
DRY = ("--dry-run", "--workers", "0", "--threads", "1")


@dataclass(frozen=True)
class Case:
    """What was broken, and how it was taken: None for well, else what was wrong."""

    what: str
    wrong: str | None


def overrides(place: Place, count: int, seed: int) -> Iterator[Case]:
    """Recipes with one to three options of values that cannot be."""
    draw, recipe = random.Random(seed), place.recipe()
    for _ in range(count):
        chosen = draw.sample(sorted(WRONG), draw.choice((1, 1, 2, 3)))
        args = [word for name in chosen for word in (f"--{name}", *_words(draw.choice(WRONG[name])))]
        yield Case(
            " ".join(args), _refused(lambda args=args: _run(recipe, [*DRY, "--out", str(place.root / "x"), *args]))
        )


def _words(value: str) -> list[str]:
    return value.split(" ")


def images(place: Place, count: int, seed: int) -> Iterator[Case]:
    """Images cut short, with changed bytes, of another format than their name says, of absurd sizes."""
    import numpy as np
    from PIL import Image

    from distill.data.files import FileImages, Paths

    draw = random.Random(seed)
    folder = place.root / "images"
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    whole = {}
    for kind in ("png", "jpeg", "bmp", "gif", "tiff", "webp", "ppm"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        whole[kind] = stream.getvalue()
    for number in range(count):
        kind = draw.choice(sorted(whole))
        what, data = _broken(whole[kind], draw)
        if number % 25 == 0:
            what, data, kind = "a bomb", _bomb(draw.choice((30_000, 65_535, 2**31 - 1))), "png"
        file = folder / f"{number}.{kind}"
        file.write_bytes(data)
        yield Case(f"{what} in a {kind}", _image_taken(FileImages(Paths.of([str(file)]), np.zeros(1, dtype=np.int64))))


def checkpoints(place: Place, count: int, seed: int) -> Iterator[Case]:
    """Checkpoints with a broken file; with checksums made right again for what is broken, in every second one."""
    draw, recipe = random.Random(seed), place.recipe()
    out, ran = place.root / "fuzzed" / "run", place.root / "ran"
    run = place.start(out, "--checkpoint-every-steps", "3", "--workers", "0")
    run.until(lambda: run.steps() >= 12)
    run.kill()
    kept = place.root / "fuzzed" / "kept"
    shutil.copytree(out / "checkpoints", kept)
    newest = sorted(path.name for path in kept.glob("step_*[0-9]"))[-1]
    step = int(newest.removeprefix("step_")) + 1
    for number in range(count):
        shutil.rmtree(out / "checkpoints")
        shutil.copytree(kept, out / "checkpoints")
        folder = out / "checkpoints" / newest
        file = draw.choice(sorted(path for path in folder.iterdir() if not path.name.startswith("random")))
        what, data = _broken(file.read_bytes(), draw)
        if draw.random() < 0.25:
            what, data = "a pickle that runs", pickle_that_runs(f"touch {ran}")
        file.write_bytes(data)
        sealed = number % 2 == 1 and file.name != "checksums.sha256"
        if sealed:
            seal(folder)
        again = ["--out", str(out), "--replay", str(step), "--workers", "0", "--threads", "1"]
        code, said, failed = _run(recipe, again)
        wrong = failed or (f"exit code {code}: {said[-200:]}" if code not in ((0, 1, 2) if sealed else (0,)) else None)
        if not sealed and data and "is skipped" not in said:
            wrong = wrong or "nothing was said"
        yield Case(f"{what} in {file.name}{', sealed' * sealed}", wrong or ("its code ran" if ran.exists() else None))


def saved(place: Place, count: int, seed: int) -> Iterator[Case]:
    """Folders of saved outputs with a broken file."""
    from dataclasses import replace

    draw, recipe = random.Random(seed), place.recipe()
    losses = {n: replace(loss, weight=0) if n in ("hint", "crd") else loss for n, loss in recipe.losses.items()}
    recipe = replace(recipe, losses=losses)
    kept, folder, ran = place.root / "saved-kept", place.root / "saved-fuzzed", place.root / "ran"
    place.save(kept, recipe)
    for _ in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
        file = draw.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
        before = file.read_bytes()
        what, data = _broken(before, draw)
        if draw.random() < 0.25:
            what, data = "a pickle that runs", pickle_that_runs(f"touch {ran}")
        file.write_bytes(data)
        args = [*DRY, "--out", str(place.root / "x"), "--saved", str(folder), "--verify-saved", "start"]
        code, said, failed = _run(recipe, args)
        # A manifest may be another one that is right, with another version's name in it; its shards may not.
        wrong = failed or ("taken for right" if code == 0 and file.suffix == ".bin" else None)
        yield Case(f"{what} in {file.name}", wrong or ("its code ran" if ran.exists() else None))
        del said


def _broken(data: bytes, draw: random.Random) -> tuple[str, bytes]:
    kind = draw.choice(("cut", "bytes", "bytes", "empty", "text", "zeros", "longer", "json"))
    at = draw.randrange(max(len(data), 1))
    if kind == "cut":
        return "cut short", data[:at]
    if kind == "bytes":
        changed = bytearray(data)
        for _ in range(draw.choice((1, 1, 8, 64))):
            if changed:
                where = draw.randrange(min(len(changed), draw.choice((32, 10**9))))
                changed[where] ^= draw.randrange(1, 256)
        # An even number of changes of one byte can undo themselves.
        return "changed bytes", bytes(changed) if changed != data else data + b"\0"
    table = {"empty": b"", "text": b"<script>alert(1)</script>", "zeros": bytes(len(data)), "longer": data + b"\0" * 9}
    return kind, table.get(kind, json.dumps({"epochs": -1, "step": [[]], "format": 1}).encode())


def _bomb(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def _image_taken(found: Any) -> str | None:
    try:
        image, _ = found[0]
        image.convert("RGB").resize((8, 8))
    except ValueError as error:
        return None if "cannot be read as an image" in str(error) and "\n" not in str(error) else f"said {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _run(recipe: Any, args: Sequence[str]) -> tuple[int, str, str | None]:
    """Exit code, what was said, and the traceback where there was one."""
    from distill import run

    stream = io.StringIO()
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        try:
            run(recipe, args)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        except BaseException:
            return 1, stream.getvalue(), traceback.format_exc().strip()[-700:]
    said = stream.getvalue()
    return code, said, "a traceback was printed" if "Traceback" in said else None


def _refused(run: Callable[[], tuple[int, str, str | None]]) -> str | None:
    code, said, failed = run()
    if failed:
        return failed
    if code == 0:
        return "taken for right"
    return None if code in (1, 2) and said.strip() else f"exit code {code}: {said}"


EACH: dict[str, Callable[[Place, int, int], Iterator[Case]]] = {
    "recipes": overrides,
    "images": images,
    "checkpoints": checkpoints,
    "saved outputs": saved,
}


def all_of(kind: str, place: Place, count: int, seed: int, progress: str) -> None:
    """Write a line of JSON for each case, so that one that hangs is known by its absence."""
    with Path(progress).open("w") as file:
        for case in EACH[kind](place, count, seed):
            file.write(json.dumps([case.what, case.wrong]) + "\n")
            file.flush()
