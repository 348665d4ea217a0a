"""The optimiser, and the learning rate as a function of the step."""

from __future__ import annotations

import math

import torch

from distill.objective import Objective
from distill.recipe import Optim


def learning_rate(optim: Optim, step: int, *, steps: int, steps_per_epoch: int) -> float:
    """The learning rate of a step (0 … steps - 1): linear from warmup_lr to lr, then a cosine to min_lr."""
    epochs = optim.warmup_epochs
    warmup = min(round((min(steps / steps_per_epoch / 10, 5) if epochs is None else epochs) * steps_per_epoch), steps)
    if step < warmup:
        return optim.warmup_lr + (optim.lr - optim.warmup_lr) * step / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return optim.min_lr + (optim.lr - optim.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def build_optimizer(objective: Objective, optim: Optim, device: torch.device) -> torch.optim.AdamW:
    """AdamW over the student and the projections; biases, norms, position embedding and tokens are not decayed."""
    exempt = objective.no_weight_decay()
    trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for name, p in trained.items() if name not in exempt], "weight_decay": optim.weight_decay},
        {"params": [p for name, p in trained.items() if name in exempt], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=device.type in ("cuda", "cpu")
    )
