"""How the frozen model runs: eagerly, or faster once it has been checked against eager. `choose` decides."""

from teachers.runtime.agreement import smooth_noise
from teachers.runtime.cache import borrowed_cache, cache_folder, weights_digest
from teachers.runtime.choose import check_installed, choose
from teachers.runtime.contract import Answers, Core, Runtime, UnsuitableError, precision
from teachers.runtime.eager import eager

__all__ = [
    "Answers",
    "Core",
    "Runtime",
    "UnsuitableError",
    "borrowed_cache",
    "cache_folder",
    "check_installed",
    "choose",
    "eager",
    "precision",
    "smooth_noise",
    "weights_digest",
]
