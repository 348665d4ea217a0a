"""A share of every class set apart for validation, the same one for every run."""

from __future__ import annotations

import numpy as np


def stratified(labels: np.ndarray, classes: tuple[str, ...], fraction: float, seed: int, where: str) -> np.ndarray:
    """Which images [N] of bool are validated on: of each class the rounded share, at least one and never all.

    ValueError if a class has fewer than two, or if the fraction is none. `where` names the images in the error.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"val_fraction is {fraction}; use a share between 0 and 1")
    rng = np.random.default_rng(seed)
    is_val = np.zeros(len(labels), dtype=bool)
    by_class = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=len(classes)))
    for label, of_class in enumerate(np.split(by_class, ends[:-1])):
        if len(of_class) < 2:
            raise ValueError(
                f"class {classes[label]!r} in {where} has {len(of_class)} images; "
                "a split needs 2 of each class, or give train and val folders"
            )
        share = min(max(round(len(of_class) * fraction), 1), len(of_class) - 1)
        is_val[rng.permutation(of_class)[:share]] = True
    return is_val


def described(fraction: float, seed: int) -> str:
    """The split in a phrase."""
    return f"{100 * fraction:.4g} % of each class set apart for validation, drawn with split seed {seed}"
