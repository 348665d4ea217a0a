"""What a teacher is made for: a recipe's data, classes and views, and the images that are held out of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from torch.utils.data import Subset

from distill import preflight
from distill.data import UNLABELLED, Images
from distill.loader import Layout
from distill.losses import CrossEntropy
from distill.recipe import Optim, Recipe, to_json
from distill.views import Transform, order, train_transform, val_transform
from students.outputs import Shapes
from teachers import Teacher, source
from teachers.classifier import classifiers

SPLIT_SEED = 0  # of the held-out images; not the run's, so that runs with other seeds hold out the same ones
MOST_HELD_OUT = 25_000  # enough for a penalty and a temperature; more would be lost to the weights


@dataclass(frozen=True, kw_only=True)
class Task:
    """A recipe's teacher with what it is fitted to, opened and checked.

    recipe: with the student's classes filled in; its student says which views the teacher sees.
    shapes: of the teacher with its own head. layout: of the images that are not held out.
    """

    recipe: Recipe
    teacher: Teacher
    shapes: Shapes
    classes: tuple[str, ...]
    train: Images
    val: Images
    held_out: np.ndarray
    layout: Layout

    @property
    def plain(self) -> Transform:
        """Image -> the view that validation uses."""
        return val_transform(self.recipe.views, self.recipe.view_size, self.recipe.student.in_chans)

    @property
    def random(self) -> Transform:
        """Image -> a random view, as the student will see them."""
        student = self.recipe.student
        return train_transform(
            self.recipe.views, self.recipe.view_size, student.in_chans, student.input_mean, student.input_std
        )

    def part(self, *, held_out: bool) -> Images:
        """The training images that are held out, or those that are not."""
        chosen = np.flatnonzero(self.held_out == held_out).tolist()
        return cast(Images, Subset(cast(Any, self.train), chosen))

    def digest(self, *more: Any) -> str:
        """A name for what is computed from the training images' views, and from more."""
        recipe, student = self.recipe, self.recipe.student
        parts = [
            recipe.data.fingerprint(),
            to_json(recipe.views),
            [*recipe.view_size, student.in_chans, *student.input_mean, *student.input_std],
            len(self.train),
            *more,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def open_task(
    recipe: Recipe, *, heldout: float, optim: Optim, images: int | None = None, processes: int = 1, accumulate: int = 1
) -> Task:
    """The task of a recipe. ValueError: what was found, what is allowed, the way out.

    images: the largest number of training images that are used, drawn once.
    """
    config = recipe.teacher
    if config is None:
        raise ValueError("the recipe has no teacher to fit; give it one with teacher=Teacher(name=...)")
    if not isinstance(config, Teacher):
        raise ValueError(
            f"the recipe's teacher is of the kind {type(config).__name__}, which is not fitted as a whole; fit a "
            "Teacher(name=...), and name its folder as a member"
        )
    if not recipe.data.classes:
        raise ValueError("a head needs labelled training images and the data has none; give labels")
    config = replace(config, head="own", class_map=None, calibrate=False)
    # Data, views and optimiser are checked as those of the student's own training, whose losses are not used.
    alone = replace(recipe.without_teacher(), losses={"labels": CrossEntropy()}, optim=optim)
    plan = preflight.check(alone, processes=processes, accumulate=accumulate)
    train = plan.train
    if images is not None and images < len(train):
        train = cast(Images, Subset(cast(Any, train), order(SPLIT_SEED, 0, len(train))[:images].tolist()))
    if plan.val[0][1] == UNLABELLED:
        raise ValueError("the validation images have no labels to measure the teacher on; give labels")
    held = np.zeros(len(train), dtype=bool)
    share = min(max(round(heldout * len(train)), 1), MOST_HELD_OUT)
    held[np.random.default_rng(SPLIT_SEED).permutation(len(train))[:share]] = True
    layout = replace(plan.layout, images=len(train) - share, repeats=1)  # few epochs, and each of all the images
    if layout.images < layout.batch_size or min(share, len(train) - share) < processes:
        raise ValueError(
            f"of {len(train)} training images {share} are held out, and {layout.images} are too few for a batch of "
            f"{layout.batch_size}; use a smaller --optim.batch-size or --heldout, or more images"
        )
    shapes = config.shapes()
    if shapes.num_classes:  # a model without a head of its own gets a linear one
        classifiers(source.plan(config).skeleton, config.name)
    return Task(
        recipe=replace(plan.recipe, teacher=config, seed=recipe.seed),
        teacher=config,
        shapes=shapes,
        classes=plan.classes,
        train=train,
        val=plan.val,
        held_out=held,
        layout=layout,
    )
