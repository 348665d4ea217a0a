"""The student that is exported, and what it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import students
from distill import preparation
from distill.folder import student_folder
from distill.nearest import no_model
from distill.preparation import Preparation
from students import ViT
from teachers.runtime.agreement import TOLERANCE, smooth_noise

BATCHES = (1, 2, 5)
"""Batch sizes at which an export has to agree with the student; it is made from a batch of two."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A student on the CPU in eval mode; folder: its own; run: the run folder that it lies in, if it does."""

    name: str
    folder: Path
    run: Path | None
    student: ViT
    preparation: Preparation

    def module(self, *, normalize: bool) -> nn.Module:
        """What is exported: images [B, C, H, W], normalised or with `normalize` in 0..1, to logits [B, K]."""
        return nn.Sequential(self.preparation.preprocess(), self.student).eval() if normalize else self.student

    def told(self, *, normalize: bool) -> Preparation:
        """How images are prepared for that module: with `normalize` nothing is left to subtract and divide by."""
        channels = self.preparation.in_chans
        return (
            replace(self.preparation, mean=(0.0,) * channels, std=(1.0,) * channels) if normalize else self.preparation
        )

    def images(self) -> Tensor:
        """Images [5, C, H, W] in 0..1, always the same: three smooth ones and two of noise."""
        channels, size = self.preparation.in_chans, self.preparation.img_size
        smooth = F.interpolate(smooth_noise(channels), size, mode="bilinear")
        return torch.cat([smooth, torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(1))])


def open_source(place: Path) -> Source:
    """The student of a run folder, or in a folder of its own. ValueError if there is none."""
    if not place.is_dir():
        raise no_model(str(place), "a run folder such as runs/quickstart, or a student's")
    folder = student_folder(place)
    inside = folder.name == "student" and (folder.resolve().parent / "recipe.json").is_file()
    run = folder.resolve().parent if inside else None
    told = preparation.of_model(f"local-dir:{folder}")
    return Source(
        name=(run or folder.resolve()).name,
        folder=folder,
        run=run,
        student=students.load(folder),
        preparation=told,
    )


@torch.no_grad()
def check(exported: Callable[[Tensor], Tensor], source: Source, what: str, *, normalize: bool = False) -> float:
    """How far an export is from the student at any of BATCHES, as a share of the largest logit.

    ValueError if that is over 1e-4.
    """
    images = source.images()
    normalised = cast(Tensor, source.preparation.preprocess()(images))
    given = images if normalize else normalised
    off = 0.0
    for batch in BATCHES:
        ours = source.student(normalised[:batch])
        share = float((exported(given[:batch]) - ours).abs().max() / ours.abs().max().clamp(min=1e-30))
        if not share <= TOLERANCE:  # not-a-number is no agreement either
            raise ValueError(
                f"the {what} export of {source.folder} is off by {share:.1e} of the largest logit at batch size "
                f"{batch}, over {TOLERANCE:.0e}, and was removed; export to another format"
            )
        off = max(off, share)
    return off
