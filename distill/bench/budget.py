"""What a run may take: its models, its optimiser, the activations of one batch, and a constant for all the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from distill import preflight, sizing
from distill.compare.peak import peak_bytes
from distill.preflight import Plan
from distill.recipe import Recipe
from teachers import FrozenTeacher
from teachers.runtime.folded import folded_core

REST = 500 * 10**6
"""Bytes for Python, its packages, the runtime's own and what lies between pieces of memory."""
FEW = 8
"""Images whose activations are measured; those of a batch are in proportion."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Bytes. student: weights, gradients and AdamW's momenta, with a moving average if there is one.

    kept: what the student and the losses keep of a batch for the backward pass; None where it cannot be computed.
    teacher: its weights. passing: what its forward pass of a batch holds at most in PyTorch, BatchNorm folded if it
    has some.
    """

    teacher: int
    student: int
    kept: int | None
    passing: int
    rest: int = REST

    def total(self, *, passing: bool = True) -> int | None:
        """All of it, with what the teacher's pass holds or without; None where a part is not known."""
        if self.kept is None:
            return None
        return self.teacher + self.student + self.kept + self.passing * passing + self.rest


def budget(recipe: Recipe) -> Budget:
    """The budget of a run of a recipe in one process."""
    plan = preflight.check(recipe)
    own = sum(parameter.nbytes for parameter in plan.objective.parameters() if parameter.requires_grad)
    average = sum(parameter.nbytes for parameter in plan.objective.student.parameters())
    cost = sizing.cost(plan, plan.layout.part)
    teacher, passing = _of_teacher(plan) if recipe.teacher else (0, 0)
    return Budget(
        teacher=teacher,
        student=4 * own + average * (recipe.optim.ema_decay is not None),
        kept=None if cost is None else round(cost.kept * plan.layout.part),
        passing=passing,
    )


def _of_teacher(plan: Plan) -> tuple[int, int]:
    """Bytes of its weights, its own head among them, and of what its pass over a batch holds at most."""
    recipe, layers = plan.recipe, tuple(plan.objective.teacher_layers)
    teacher: Any = recipe.teacher
    frozen = teacher.build(head=None, layers=layers, pretrained=False)
    views = torch.zeros(FEW, recipe.student.in_chans, *recipe.view_size)
    most = peak_bytes(lambda x: frozen(x, layers), views) or 0
    if isinstance(frozen, FrozenTeacher) and (folded := folded_core(frozen.model, frozen.preprocess(views), layers)):
        most = min(most, peak_bytes(folded, frozen.preprocess(views)) or most)
    return sum(parameter.nbytes for parameter in frozen.parameters()), round(most / FEW * plan.layout.part)
