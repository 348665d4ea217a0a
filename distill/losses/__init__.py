"""The loss library: for each loss a pure function on tensors, and a frozen dataclass that a recipe names."""

from distill.losses.contract import Bound, Head, Loss, Needs
from distill.losses.hint import Hint, hint, match_size, standardize_channels
from distill.losses.labels import CrossEntropy, cross_entropy
from distill.losses.logits import HardTargets, SoftTargets, hard_targets, soft_targets

__all__ = [
    "Bound",
    "CrossEntropy",
    "HardTargets",
    "Head",
    "Hint",
    "Loss",
    "Needs",
    "SoftTargets",
    "cross_entropy",
    "hard_targets",
    "hint",
    "match_size",
    "soft_targets",
    "standardize_channels",
]
