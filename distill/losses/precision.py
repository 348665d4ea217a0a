"""Losses are computed in float32 or better, whatever precision the models run in, and no gradient reaches a teacher."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec

from distill.losses.later import torch

if TYPE_CHECKING:
    from torch import Tensor


Options = ParamSpec("Options")


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or as it is when it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def student_and_teacher(
    loss: Callable[Concatenate[Tensor, Tensor, Options], Tensor],
) -> Callable[Concatenate[Tensor, Tensor, Options], Tensor]:
    """Decorate a function of what the student and the teacher say.

    Both come in float32, or in float64 where one is, the teacher's detached, and no autocast is on inside.
    """

    @wraps(loss)
    def guarded(student: Tensor, teacher: Tensor, *args: Options.args, **kwargs: Options.kwargs) -> Tensor:
        with torch.autocast(student.device.type, enabled=False):
            # One for both: torch 2.10 has no gradient of F.mse_loss where they differ.
            dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
            return loss(student.to(dtype), teacher.detach().to(dtype), *args, **kwargs)

    return guarded
