"""A teacher's features of the training images, plain and in random views, in files of the cache."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from distill.console import Console
from distill.data import Images
from distill.fitting.task import Task
from distill.loader import in_order
from distill.processes import meet
from distill.teaching import BATCH_SIZE, HEAD_SEED, what_embeds
from distill.views import derived_seed
from teachers import FrozenTeacher
from teachers.features import FeatureFile, Features
from teachers.runtime import cache_folder

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextmanager
def features_of(
    task: Task,
    teacher: FrozenTeacher,
    images: Images,
    held_out: np.ndarray,
    accelerator: Accelerator,
    console: Console,
    *,
    epochs: int,
    workers: int,
    keep: bool,
) -> Iterator[Features]:
    """This process's share of the features of images in the plain view and `epochs` random ones.

    Each view has a file for each process, which later fits on the same views find; a view that was not finished is
    made again. held_out: [N] of bool, for each of the images. keep: leave the files in the cache.
    """
    process, processes = accelerator.process_index, accelerator.num_processes
    precision = accelerator.mixed_precision
    which = "all" if images is task.train else np.packbits(task.held_out).tobytes().hex()
    name = task.digest(*what_embeds(teacher), precision, processes, len(images), which)
    folder = cache_folder().with_name("features") / name
    mine = range(process, len(images), processes)
    paths = [folder / f"view_{view}_{process}.npy" for view in range(epochs + 1)]
    labels_file = folder / f"labels_{process}.npy"
    missing = [view for view, path in enumerate(paths) if not path.is_file() or not labels_file.is_file()]
    with console.counting("teacher's features", len(missing) * len(images)) as counter:
        for view in missing:
            labels = np.empty(len(mine), dtype=np.int64)
            file = FeatureFile(paths[view], len(mine), task.shapes.embedding)
            # The first random view is the one that a recipe's own fit sees.
            seed = None if view == 0 else HEAD_SEED if view == 1 else derived_seed(HEAD_SEED, view, "features")
            transform = task.plain if view == 0 else task.random
            parts = {"process": process, "processes": processes, "seed": seed}
            for batch in in_order(images, transform, batch_size=BATCH_SIZE, workers=workers, **parts):
                if batch.labels is None:
                    raise ValueError("some training images have no label; give each one of the classes")
                with accelerator.autocast():
                    embedding = teacher(batch.views.to(accelerator.device, non_blocking=True)).embedding
                assert embedding is not None
                labels[file.done : file.done + len(batch.views)] = batch.labels.numpy()
                file.append(embedding)
                counter.advance(len(batch.views) * processes)
            file.close()
            np.save(labels_file, labels)
    meet(accelerator)
    try:
        labels = torch.from_numpy(np.load(labels_file))
        held = torch.from_numpy(held_out[process::processes].copy())
        yield Features.open(paths, labels, held).near(accelerator.device)
    finally:
        if keep:
            size = sum(path.stat().st_size for path in folder.glob("*.npy")) / 2**30
            console.say(f"features are kept in {folder} ({size:.2f} GiB)")
        else:
            accelerator.wait_for_everyone()
            if accelerator.is_local_main_process:
                shutil.rmtree(folder, ignore_errors=True)
