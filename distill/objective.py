"""The objective: the student and the losses' projections, in the one module that accelerate prepares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from distill.losses import Address, Bound, Loss, Pair
from distill.losses.schedule import CONSTANT
from distill.views import derived_seed
from students import ViT
from students.outputs import Outputs, Shapes
from students.preprocess import Preprocess


class Objective(nn.Module):
    """Views, what the teacher says of them, and labels -> the losses.

    The student stands under `student`, alone in its name space, so that it is exported without the projections.
    A loss of weight 0 is left out, and the layers that it alone reads are not asked for. images: of the training set.
    ValueError, with the loss's name, if a loss does not fit the two models or if a head learns nothing.
    """

    def __init__(self, student: ViT, losses: Mapping[str, Loss], teacher: Shapes | None, *, images: int = 0) -> None:
        super().__init__()
        config = student.config
        shapes = config.shapes()
        self.preprocess = Preprocess(config.img_hw, config.input_mean, config.input_std)
        self.student = student
        self.losses = {name: loss for name, loss in losses.items() if loss.weight}
        self.bound = {name: _bind(name, loss, shapes, teacher, images) for name, loss in self.losses.items()}
        _check_names(self.bound)
        self.projections = nn.ModuleDict({name: b for name, b in self.bound.items() if isinstance(b, nn.Module)})
        needs = [loss.needs for loss in self.losses.values()]
        self.student_layers = sorted({shapes.layer(layer) for need in needs for layer in need.student_layers})
        self.teacher_layers = sorted(
            {teacher.layer(layer) for need in needs for layer in need.teacher_layers} if teacher else ()
        )
        _check_heads(shapes, self.losses)

    def forward(
        self, views: Tensor, target: Outputs | None, labels: Tensor | None, address: Address | None = None
    ) -> dict[str, Tensor]:
        """views [B, c, H, W], labels [B] or [B, K] -> each loss unweighted, and their weighted sum as `total`."""
        seeds = address.draws if address else None
        student = self.student.outputs(self.preprocess(views), self.student_layers, seeds, lean=True)
        terms = {}
        with torch.autocast(views.device.type, enabled=False):
            for name, bound in self.bound.items():
                if self.losses[name].needs.address:
                    assert address is not None
                    # Two losses of a kind draw apart.
                    own = replace(address, seed=derived_seed(address.seed, name))
                    terms[name] = bound(student, target, labels, own)
                else:
                    terms[name] = bound(student, target, labels)
            total = torch.stack([self.weight(name, address) * term for name, term in terms.items()]).sum()
        return {"total": total} | terms

    def weight(self, name: str, address: Address | None) -> float:
        """A loss's weight at this point of its schedule; its full weight where the point is not known."""
        loss = self.losses[name]
        return loss.weight * (getattr(loss, "schedule", CONSTANT).factor(address.progress) if address else 1.0)

    def pairs(self) -> dict[str, list[Pair]]:
        """What each loss on features compares, for a person to check."""
        found = {name: getattr(bound, "pairs", None) for name, bound in self.bound.items()}
        return {name: pairs for name, pairs in found.items() if pairs}

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are not decayed: the student's own choice, and every bias."""
        exempt = {f"student.{name}" for name in self.student.no_weight_decay()}
        return exempt | {name for name, parameter in self.named_parameters() if parameter.ndim <= 1}


def _check_names(bound: Mapping[str, Bound]) -> None:
    # `total` is the sum's own place, and torch keeps projections by name beside its own attributes, without dots.
    for name, loss in bound.items():
        kept = isinstance(loss, nn.Module) and ("." in name or not name or hasattr(nn.ModuleDict, name))
        if name == "total" or kept:
            raise ValueError(f"no loss can be named {name!r}, which the sum or PyTorch needs; call it otherwise")


def _bind(name: str, loss: Loss, student: Shapes, teacher: Shapes | None, images: int) -> Bound:
    try:
        return loss.bind(student, teacher, images) if loss.needs.address else loss.bind(student, teacher)
    except ValueError as error:
        raise ValueError(f"loss '{name}': {error}") from None


def _check_heads(student: Shapes, losses: Mapping[str, Loss]) -> None:
    # A head that gets no gradient would stay random, and stops DDP with an error about unused parameters.
    if not losses:
        raise ValueError("the recipe has no loss of a weight other than 0; give one, such as losses={'labels': ...}")
    heads = {loss.needs.head for loss in losses.values()}
    token = student.has_token and bool(heads & {"auto", "token"})
    of_class = "class" in heads or (not student.has_token and "auto" in heads)
    if not of_class:
        raise ValueError(
            "no loss trains the student's class head; add one on logits, such as CrossEntropy(), or SoftTargets("
            "head='class')"
        )
    if student.has_token and not token:
        raise ValueError(
            "no loss trains the student's distillation token; add one such as HardTargets(), "
            "or use --student.no-distilled"
        )
