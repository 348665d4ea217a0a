"""How a teacher is fitted or fine-tuned: the options of `python -m distill teacher`, beside a recipe's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from distill.recipe import Optim


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A linear head on the teacher's frozen features, in one pass over the data."""

    out: str | None = None
    """Folder of the new teacher; None: runs/<file name of the recipe>-teacher."""
    epochs: int = 1
    """Random views of each training image that the head is fitted on, beside the plain one."""
    images: int | None = None
    """Largest number of training images that are used; None: all."""
    heldout: float = 0.1
    """Share of them that chooses the penalty and the temperature; the weights are fitted on the others. At most 25,000
    images."""
    keep_features: bool = True
    """Keep the features in the cache, so that the next fit on the same views needs no pass over the images."""
    workers: int | None = None
    """Loader processes of each process; None: the cores that are left, one to eight. 0: load in the process."""
    threads: int | None = None
    """CPU threads of each process; None: the cores of the machine shared evenly."""


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """The whole teacher on your classes: a fitted head first, then all layers, the early ones at lower rates."""

    out: str | None = None
    """Folder of the new teacher; None: runs/<file name of the recipe>-teacher."""
    optim: Optim = field(
        default_factory=lambda: Optim(
            epochs=10, batch_size=64, lr=2e-4, min_lr=1e-6, warmup_lr=0.0, warmup_epochs=1.0, clip_grad=1.0
        )
    )
    """AdamW, a warm-up and a cosine; lr is that of the head."""
    layer_decay: float = 0.75
    """Each layer's learning rate as a share of that of the layer above it; 1: the same everywhere."""
    smoothing: float = 0.0
    """Label smoothing. It makes a better classifier and a worse teacher (Müller et al. 2019, arXiv:1906.02629)."""
    batch_norm: Literal["train", "frozen"] = "frozen"
    """"frozen": batch norms keep the statistics that they came with, on which the head was fitted; "train": they take
    those of the batches, which needs large batches and many epochs."""
    heldout: float = 0.1
    """Share of the training images that chooses the temperature and is not trained on. At most 25,000 images."""
    checkpoint_every_steps: int = 500
    """Steps between two checkpoints."""
    log_every_steps: int = 10
    """Steps between two lines of metrics.jsonl."""
    resume: Literal["auto", "never"] = "auto"
    """auto: go on with an unfinished fine-tuning in the folder; never: start over."""
    workers: int | None = None
    """Loader processes of each process; None: the cores that are left, one to eight. 0: load in the process."""
    threads: int | None = None
    """CPU threads of each process; None: the cores of the machine shared evenly."""


def check(options: Fit | FineTune) -> None:
    """ValueError for an option out of its range."""
    counts = ("epochs", "images", "checkpoint_every_steps", "log_every_steps", "threads")
    for name in counts:
        value = getattr(options, name, None)
        least = 0 if name == "epochs" else 1
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; use {least} or more")
    if options.workers is not None and options.workers < 0:
        raise ValueError(f"--workers is {options.workers}; use 0 or more")
    if not 0 < options.heldout < 1:
        raise ValueError(f"--heldout is {options.heldout}; use a share between 0 and 1, such as 0.1")
    if options.out == "":
        raise ValueError("--out is empty; name a folder, or leave it out")
    if isinstance(options, FineTune):
        if not 0 < options.layer_decay <= 1:
            raise ValueError(f"--layer-decay is {options.layer_decay}; use a share above 0, at most 1")
        if not 0 <= options.smoothing < 1:
            raise ValueError(f"--smoothing is {options.smoothing}; use a share of 0 or more, below 1")
