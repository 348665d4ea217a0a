"""Whether two models that saw the same images differ by more than chance."""

from __future__ import annotations

import math

EXACT_BELOW = 1000
"""Images on which only one is right: below, the p-value is counted exactly, else by chi-square."""


def mcnemar(only_reference: int, only_this: int) -> float:
    """McNemar's two-sided p-value of equal accuracy, from the images on which only one of two models is right.

    Exact (binomial) for fewer than EXACT_BELOW such images; above, chi-square with Edwards' continuity correction.
    """
    n = only_reference + only_this
    if n < EXACT_BELOW:
        tail = sum(math.comb(n, k) for k in range(min(only_reference, only_this) + 1))
        return min(1.0, 2 * tail / 2**n)
    chi2 = max(abs(only_reference - only_this) - 1, 0) ** 2 / n
    return math.erfc(math.sqrt(chi2 / 2))
