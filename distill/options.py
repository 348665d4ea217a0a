"""How a run is carried out: the options that every recipe has beside its own fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """But for `saved`, `skip_nonfinite` and `auto_accumulate`, none of these changes what is learnt."""

    out: str | None = None
    """Run folder; None: runs/<file name of the recipe>, with -alone behind it for --alone."""
    alone: bool = False
    """Train the same student on the same data and budget with labels alone: the baseline."""
    saved: str | None = None
    """Folder of `python -m distill save`: its outputs teach in turn, and the teacher is not loaded."""
    verify_saved: Literal["use", "start", "never"] = "use"
    """When the checksum of each shard is compared: as it is first used, of all before training, or not at all."""
    dry_run: bool = False
    """Check the recipe, take two real steps in a temporary folder, and say what the whole run would take.

    Synthetic images and random weights stand in for images and a teacher's weights that are not on this machine.
    """
    resume: Literal["auto", "never"] = "auto"
    """auto: go on with an unfinished run in the folder; never: remove that run and start over."""
    workers: int | None = None
    """Loader processes of each process; None: the cores that are left, one to eight. 0: load in the process."""
    threads: int | None = None
    """CPU threads of each process; None: the cores of the machine shared evenly."""
    compile: bool = False
    """Compile the student's blocks and, on a GPU or in mixed precision, a teacher of runtime auto.

    It starts slower and is faster then. On a CPU in float32 onnxruntime runs the teacher at least as fast."""
    overlap: bool = False
    """On CUDA, run the teacher on the next images beside the student on these; takes memory for both at once.

    The result is the same. Not under FSDP. Elsewhere than on CUDA the next images are only made ready earlier.
    """
    log_every_steps: int = 10
    """Steps between two lines of metrics.jsonl."""
    eval_every_epochs: int = 1
    """Epochs between two evaluations; the last epoch always ends with one."""
    checkpoint_every_steps: int = 100
    """Steps between two checkpoints; the last step always writes one."""
    skip_nonfinite: int = 0
    """Steps that may be left out because a loss or the gradient is not finite; one more ends the run."""
    replay: int | None = None
    """Take the steps from the last checkpoint before this step up to it again, keep nothing, and say what it gives."""
    auto_accumulate: bool = False
    """On running out of GPU memory, go on with the same global batches in twice as many accumulation steps."""
    trackers: tuple[str, ...] = ()
    """accelerate's experiment trackers that get the metrics too: tensorboard, wandb, trackio, mlflow …"""

    def check(self) -> None:
        """ValueError for an option out of its range."""
        for name in ("log_every_steps", "eval_every_epochs", "checkpoint_every_steps", "threads", "replay"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {value}; use 1 or more")
        for name in ("workers", "skip_nonfinite"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; use 0 or more")
        if self.out == "":
            raise ValueError("--out is empty; name a folder, or leave it out")
        if "all" in self.trackers:
            raise ValueError("--trackers all takes whatever is installed; name those you want, such as tensorboard")
