"""What torch's threads do between two operations: they soon sleep, for one that spins keeps a core from others.

OpenMP reads its settings once, as torch is imported; so this comes before, and a recipe's script imports no torch.
"""

from __future__ import annotations

import os

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SPINS = "1000"  # a moment for the next operation of the same step; libgomp's own default is 300 times as long


def rest() -> None:
    """Have the threads of libgomp, which torch brings on Linux, spin for a moment only; what the user has set stays."""
    if not any(name in os.environ for name in SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = SPINS
