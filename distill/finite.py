"""Whether a step may be taken: losses and gradient are finite on every process, and nobody was told to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distill.signals import NUMBERS

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.preflight import Plan

GRADIENT = "gradient"
WAY_OUT = "lower the learning rate or that loss's weight, or train in bf16 or float32"


class NonFiniteLoss(RuntimeError):
    """A loss or the gradient is NaN or infinite; raised on every process before the optimiser took the step."""

    def __init__(self, text: str, step: int) -> None:
        super().__init__(text)
        self.step = step


@dataclass(frozen=True)
class Agreed:
    """What every process knows of a step: mean losses, the gradient's norm, and the signal that one of them got."""

    means: dict[str, float]
    norm: float = 0.0
    signal: int = 0

    def broken(self, *, with_gradient: bool = True) -> list[str]:
        """The terms that are not finite; `total` only where no term explains it, the gradient only where no loss does.

        with_gradient: False where a loss scaler looks at the gradient itself.
        """
        terms = [name for name, value in self.means.items() if not math.isfinite(value) and name != "total"]
        total = [] if math.isfinite(self.means["total"]) else ["total"]
        gradient = [GRADIENT] if with_gradient and not math.isfinite(self.norm) else []
        return terms or total or gradient


def agree(terms: list[dict[str, Tensor]], norm: Tensor, signal: int, accelerator: Accelerator) -> Agreed:
    """Each term's mean over accumulation steps and processes, in one exchange with all else that must be known."""
    names = list(terms[0])
    local = torch.stack([torch.stack([term[name].detach() for name in names]) for term in terms]).mean(0)
    # Perhaps only one process got a signal, so each signal has a place of its own in what is averaged.
    got = [float(signal == number) for number in NUMBERS]
    told = torch.cat([local, norm.to(local).reshape(1), torch.tensor(got).to(local)])
    means = accelerator.reduce(told, reduction="mean")
    assert isinstance(means, Tensor)
    values = means.tolist()
    gradient, *shares = values[len(names) :]
    told_to_stop = [number for number, share in zip(NUMBERS, shares, strict=True) if share]
    return Agreed(dict(zip(names, values, strict=False)), gradient, max(told_to_stop, default=0))


def gradient_norm(parameters: list[torch.nn.Parameter], accelerator: Accelerator, clip: float | None) -> Tensor:
    """The norm of the gradient over all parameters, which is then clipped to `clip`; 0 under a loss scaler."""
    if clip is not None:
        norm = accelerator.clip_grad_norm_(parameters, clip)
        return _whole(norm) if isinstance(norm, Tensor) else torch.tensor(float(norm or 0))
    if accelerator.scaler is not None:
        return torch.zeros(())
    return _whole(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))


def _whole(norm: Tensor) -> Tensor:
    """The norm over all processes where each has a part of the weights."""
    from torch.distributed.tensor import DTensor

    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def finite_means(terms: list[dict[str, Tensor]], accelerator: Accelerator, step: int) -> dict[str, float]:
    """The mean of each term over accumulation steps and processes; NonFiniteLoss, on every process, if one is none."""
    agreed = agree(terms, torch.zeros(()), 0, accelerator)
    if broken := agreed.broken():
        raise NonFiniteLoss(f"{_what(agreed, broken, step)}; {WAY_OUT}", step + 1)
    return agreed.means


def refusal(agreed: Agreed, broken: list[str], plan: Plan, step: int) -> tuple[str, dict[str, object]]:
    """What is said of a step that is not taken, and the address of every view in it, as JSON values."""
    from distill.loader import order_of

    layout, seed = plan.layout, plan.recipe.seed
    epoch, step_in_epoch = divmod(step, layout.steps_per_epoch)
    epoch %= layout.views_epochs or layout.epochs
    first = step_in_epoch * layout.batch_size
    shown_views = layout.shown(order_of(plan.train, seed, epoch), first, layout.batch_size)
    indices = [index for index, _ in shown_views]
    shown = ", ".join(map(str, indices[:4])) + (" …" if len(indices) > 4 else "")
    text = f"{_what(agreed, broken, step)}; its views are those of images {shown} in epoch {epoch}"
    values = {name: str(value) for name, value in (agreed.means | {GRADIENT: agreed.norm}).items()}
    address: dict[str, object] = {
        "step": step + 1,
        "values": values,
        "seed": seed,
        "epoch": epoch,
        "position": first,
        "images": indices,
    }
    if layout.repeats > 1:
        address["views"] = [view for _, view in shown_views]
    return text, address


def _what(agreed: Agreed, broken: list[str], step: int) -> str:
    value = agreed.norm if broken == [GRADIENT] else agreed.means[broken[0]]
    kind = "the" if broken == [GRADIENT] else "loss"
    return f"step {step + 1}: {kind} {', '.join(broken)} is {value}; no optimiser step was taken"
