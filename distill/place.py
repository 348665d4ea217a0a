"""Where a run is carried out: accelerate's processes and devices, CPU threads, loader workers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from distill.options import RunOptions

if TYPE_CHECKING:
    from accelerate import Accelerator


def accelerator(options: RunOptions, out: Path) -> Accelerator:
    """accelerate's, with the run's trackers, and on a CPU its share of the threads. ValueError: what is missing."""
    import torch
    from accelerate import Accelerator
    from accelerate.tracking import filter_trackers

    from distill import launched
    from distill.allocator import keep_freed_memory
    from distill.loader import cores

    launched.check_packages()
    found = Accelerator(project_dir=str(out))
    launched.check_place(found, rehearsal=options.dry_run)
    # Not before: accelerate's own messages need an Accelerator, which must be the first to look at the processes.
    found.log_with = filter_trackers(list(options.trackers), found.logging_dir)
    usable = {str(getattr(tracker, "value", tracker)) for tracker in found.log_with}
    for tracker in options.trackers:
        if tracker not in usable:
            raise ValueError(f"tracker '{tracker}' is not installed; pip install {tracker}, or leave it out")
    if found.device.type == "cpu":
        # Launchers set one thread a process; on a CPU that leaves the other cores idle.
        torch.set_num_threads(options.threads or max(cores() // _processes_here(), 1))
        keep_freed_memory()
    return found


def workers(options: RunOptions) -> int:
    """Loader processes of each process: as many as were asked for, else an even share of the cores."""
    from distill.loader import default_workers

    return default_workers(_processes_here()) if options.workers is None else options.workers


def is_main() -> bool:
    """Whether this is the process that speaks, known before accelerate is started."""
    return os.environ.get("RANK", "0") == "0"


def _processes_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
