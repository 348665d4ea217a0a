"""Small runs one after another, in one process and in many: what each leaves behind, and whether it grows."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median

import psutil
from rich.table import Table

from tests.torture.small import ENVIRONMENT, EVERY, REPOSITORY, Place

Row = Mapping[str, float]
"""What is there after a run: a number a kind."""

SHORT = ("--optim.epochs", "1", "--optim.warmup-epochs", "0", "--workers", "2", *EVERY)
WARM_UP = 0.25
"""Share of the runs that may grow: caches of torch, timm and the allocator fill in the first ones."""
MOST = {"memory MiB": 0.1, "open files": 0.01, "threads": 0.01, "child processes": 0.01}
"""What may be there more after each run, as the median slope of all pairs of runs behind the warm-up."""


def one_process(place: Place, minutes: float, runs: int | None = None) -> tuple[list[dict[str, float]], str | None]:
    """Begin, evaluate, export and compare again and again in one process; a row a run, and how it failed."""
    found, folder = place.root / "soak.jsonl", place.root / "soak"
    log = place.root / "logs" / "soak.txt"
    environment = ENVIRONMENT | {"DISTILL_CACHE": str(place.root / "cache")}
    place.context.set_forkserver_preload(["tests.torture.child"])
    process = place.context.Process(
        target=_enter, args=(str(folder), str(log), environment, place.recipe(), 60 * minutes, runs, str(found))
    )
    process.start()
    process.join(60 * minutes + 300)
    hangs = process.exitcode is None
    process.kill()
    process.join()
    rows = [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
    if hangs or process.exitcode:
        said = log.read_text(errors="replace")[-500:] if log.exists() else ""
        return rows, f"one process {'hangs' if hangs else f'ended with {process.exitcode}'}: {said}"
    return rows, None


def _enter(folder: str, log: str, environment: dict[str, str], recipe, seconds: float, runs: int | None, found: str):
    from tests.torture import child

    child.soak(folder, log, environment, recipe, seconds, runs, found)


def repeat(once: Callable[[Path], None], folder: Path, seconds: float, runs: int | None, found: Path) -> None:
    """Do it in a new folder until the time is over, or so many times, and write a row after each."""
    began, number, me = time.monotonic(), 0, psutil.Process()
    with found.open("w") as file:
        while number < runs if runs else time.monotonic() - began < seconds:
            once(folder / f"{number:05d}")
            shutil.rmtree(folder)
            gc.collect()
            row = {
                "memory MiB": me.memory_info().rss / 2**20,
                "open files": me.num_fds(),
                "threads": me.num_threads(),
                "child processes": len(me.children(recursive=True)),
            }
            file.write(json.dumps(row) + "\n")
            file.flush()
            number += 1


def many_processes(place: Place, minutes: float, runs: int | None = None) -> tuple[list[dict[str, float]], str | None]:
    """Run the recipe's script again and again, every fourth ended by SIGTERM; what the machine has more after each."""
    temporary, began, rows = place.root / "tmp", time.monotonic(), []
    temporary.mkdir()
    shared = set(_shared_memory())
    caches = {"DISTILL_CACHE": str(place.root / "cache"), "TORCHINDUCTOR_CACHE_DIR": str(place.root / "inductor")}
    environment = os.environ | ENVIRONMENT | caches | {"TMPDIR": str(temporary)}
    where = ("--data.path", str(place.data), "--teacher.name", str(place.teacher))
    while len(rows) < runs if runs else time.monotonic() - began < 60 * minutes:
        out, ended = place.root / "many" / f"{len(rows):05d}", len(rows) % 4 == 3
        with (place.root / "logs" / "many.txt").open("w+") as log:
            process = subprocess.Popen(
                [sys.executable, "tests/tiny_recipe.py", *where, *SHORT, "--out", str(out)],
                cwd=REPOSITORY, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            while ended and process.poll() is None and not (out / "metrics.jsonl").is_file():
                time.sleep(0.01)
            if ended:
                process.send_signal(signal.SIGTERM)
            code = process.wait()
            if code not in ((0, 143) if ended else (0,)):
                log.seek(0)
                return rows, f"run {len(rows)} ended with {code}: {log.read()[-500:]}"
        alive = [one for one in psutil.process_iter() if _session(one.pid) == process.pid]
        rows.append(
            {
                "processes left": len(alive),
                "temporary files left": sum(1 for _ in temporary.rglob("*")),
                "shared memory left": len(set(_shared_memory()) - shared),
                "hidden or partial files left": len(_strays(out)),
            }
        )
        shutil.rmtree(out, ignore_errors=True)
    return rows, None


def _strays(out: Path) -> list[Path]:
    return [path for path in (*out.rglob(".*"), *out.rglob("*.partial")) if path.name != ".lock"]


def _shared_memory() -> list[str]:
    # torch_PID_…, of processes that are gone: others on the machine have theirs.
    found = [path.name for path in Path("/dev/shm").glob("torch_*_*")]
    return [name for name in found if not psutil.pid_exists(int(name.split("_")[1]))]


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def slope(rows: Sequence[Row], kind: str) -> float:
    """More of a kind after each run, behind the warm-up: the median of the slopes of all pairs, so that one is none."""
    values = [row[kind] for row in rows[round(WARM_UP * len(rows)) :]]
    step = len(values) // 300 + 1  # 45,000 pairs are enough
    values = values[::step]
    slopes = [(values[b] - values[a]) / ((b - a) * step) for a, b in combinations(range(len(values)), 2)]
    return median(slopes) if slopes else 0.0


def grown(rows: Sequence[Row], kinds: Sequence[str] = tuple(MOST)) -> list[str]:
    """What grows with the runs of one process by more than it may."""
    return [
        f"{kind} grow by {slope(rows, kind):.3f} a run, more than {MOST[kind]}"
        for kind in kinds
        if slope(rows, kind) > MOST[kind]
    ]


def left(rows: Sequence[Row]) -> list[str]:
    """What processes left behind."""
    return [f"{kind}: {max(row[kind] for row in rows):g}" for kind in rows[0] if any(row[kind] for row in rows)]


def table(rows: Sequence[Row], title: str) -> Table:
    """The first, middle and last row, the extremes behind the warm-up and the slope of each kind."""
    shown = Table("after a run", title=f"{title}: {len(rows)} runs", title_justify="left", box=None)
    for column in ("first", "middle", "last", "least", "most", "a run more"):
        shown.add_column(column, justify="right")
    behind = rows[round(WARM_UP * len(rows)) :]
    for kind in rows[0]:
        values = [rows[0][kind], rows[len(rows) // 2][kind], rows[-1][kind]]
        values += [min(row[kind] for row in behind), max(row[kind] for row in behind)]
        shown.add_row(kind, *(f"{value:,.1f}".removesuffix(".0") for value in values), f"{slope(rows, kind):.4f}")
    return shown
