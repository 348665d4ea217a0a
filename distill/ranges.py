"""Values of a recipe that are out of range, each of which can be known from itself alone."""

from __future__ import annotations

import math

from distill.losses.schedule import CONSTANT
from distill.recipe import Optim, Recipe
from distill.views import Views
from teachers.ensemble import members


def check(recipe: Recipe) -> None:
    """ValueError for a value of the optimiser, the views, the losses or the teachers that is out of its range."""
    check_optim(recipe.optim)
    _check_views(recipe.views)
    _check_losses_and_teachers(recipe)


def check_optim(optim: Optim) -> None:
    """ValueError for one out of its range. The epochs may be known only once the images are."""
    for name in ("epochs", "batch_size"):
        value = getattr(optim, name)
        if value is not None and value < 1:
            raise ValueError(f"optim.{name} is {value}; use 1 or more")
    warmup = optim.warmup_epochs
    if optim.epochs is not None and warmup is not None and not 0 <= warmup <= optim.epochs:
        raise ValueError(
            f"optim.warmup_epochs is {warmup} but the run has {optim.epochs} epochs; "
            f"use --optim.warmup-epochs 0 to {optim.epochs}"
        )
    if not optim.lr > 0:
        raise ValueError(f"optim.lr is {optim.lr}; use a number above 0")
    for name in ("min_lr", "warmup_lr", "weight_decay", "eps"):
        if not 0 <= getattr(optim, name) < math.inf:
            raise ValueError(f"optim.{name} is {getattr(optim, name)}; use 0 or more")
    if optim.min_lr > optim.lr:
        raise ValueError(
            f"optim.min_lr is {optim.min_lr} and optim.lr {optim.lr}; use --optim.min-lr {optim.lr} or less"
        )
    if not all(0 <= beta < 1 for beta in optim.betas):
        raise ValueError(f"optim.betas are {optim.betas}; use two numbers of 0 or more and below 1")
    if optim.clip_grad is not None and not optim.clip_grad > 0:
        raise ValueError(f"optim.clip_grad is {optim.clip_grad}; use a number above 0, or None for no clipping")
    if optim.ema_decay is not None and not 0 < optim.ema_decay < 1:
        raise ValueError(f"optim.ema_decay is {optim.ema_decay}; use a number between 0 and 1, such as 0.9999, or None")


def _check_views(views: Views) -> None:
    if views.repeats < 1:
        raise ValueError(f"views.repeats is {views.repeats}; use 1 or more")
    for name in ("hflip", "vflip", "re_prob", "mix_prob", "mix_switch_prob"):
        if not 0 <= getattr(views, name) <= 1:
            raise ValueError(f"views.{name} is {getattr(views, name)}; use a probability between 0 and 1")
    for name in ("mixup", "cutmix", "color_jitter"):
        if not 0 <= (getattr(views, name) or 0) < math.inf:
            raise ValueError(f"views.{name} is {getattr(views, name)}; use 0 or more")
    if not 0 < views.crop_pct <= 1:
        raise ValueError(f"views.crop_pct is {views.crop_pct}; use a share above 0, at most 1")
    if not 0 < views.scale[0] <= views.scale[1] <= 1:
        raise ValueError(f"views.scale is {views.scale}; use two shares of the area, the smaller first, at most 1")
    if not 0 < views.ratio[0] <= views.ratio[1] < math.inf:
        raise ValueError(f"views.ratio is {views.ratio}; use two numbers above 0, the smaller first")
    if views.img_size is not None and min(_sides(views.img_size)) < 1:
        raise ValueError(f"views.img_size is {views.img_size}; use pixels of 1 or more, or None for the student's size")


def _check_losses_and_teachers(recipe: Recipe) -> None:
    for name, loss in recipe.losses.items():
        if not 0 <= loss.weight < math.inf:
            raise ValueError(f"losses.{name}.weight is {loss.weight}; use 0 or more")
        schedule = getattr(loss, "schedule", CONSTANT)
        if not 0 < schedule.over <= 1:
            raise ValueError(f"losses.{name}.schedule.over is {schedule.over}; use a share of the run, above 0 to 1")
    for member in members(recipe.teacher) if recipe.teacher else ():
        if member.fit_images < 20:
            raise ValueError(f"teacher.fit_images is {member.fit_images}; use 20 or more")


def _sides(size: int | tuple[int, int]) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else size
