"""The same job through other code: a student taught by labels and soft targets, half each, on the same images.

A peer gets images that are normalised for the student already and a teacher as timm builds it, in a wrapper that
resizes them to the teacher's size: neither is on its clock more than a user of it would have to put there. The
teacher's logits and the loss of the first step are compared with ours before anything is timed. The student is timm's
own Vision Transformer with the weights that ours starts with, and all take their steps with fused AdamW.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.bench.steps import Ready
from distill.losses import CrossEntropy, SoftTargets
from distill.recipe import Recipe
from students.preprocess import Preprocess

if TYPE_CHECKING:
    from accelerate import Accelerator

    from teachers import FrozenTeacher

HALF = 0.5

Step = Callable[[], Tensor]
"""Takes one training step and returns its loss."""


def same_job(recipe: Recipe) -> Recipe:
    """The recipe with the losses that every peer has, for a student without a distillation token.

    Nothing is dropped at random, so that the losses can be compared.
    """
    soft = next((loss for loss in recipe.losses.values() if isinstance(loss, SoftTargets)), SoftTargets())
    losses = {
        "labels": CrossEntropy(weight=HALF),
        "soft": SoftTargets(weight=HALF, temperature=soft.temperature),
    }
    kept = {f"{place}_drop_rate": 0.0 for place in ("pos", "attn", "proj")}
    student = replace(recipe.student, distilled=False, drop_rate=0.0, drop_path_rate=0.0, **kept)
    return replace(recipe, losses=losses, student=student)


def temperature(recipe: Recipe) -> float:
    """Of the job's soft targets."""
    loss = recipe.losses["soft"]
    assert isinstance(loss, SoftTargets)
    return loss.temperature


class PlainTeacher(nn.Module):
    """A teacher as timm builds it, for a peer: images of the student's size [B, c, h, w], normalised, to logits [B, K].

    mean, std: what the images are normalised with; none: with the teacher's own.
    """

    def __init__(self, teacher: FrozenTeacher, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        super().__init__()
        self.own = teacher.preprocess
        self.teacher = copy.deepcopy(teacher)
        self.teacher.preprocess = cast(Preprocess, nn.Identity())
        self.renormalise = mean is not None
        self.register_buffer("mean", torch.tensor(mean or 0.0).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std or 1.0).view(-1, 1, 1), persistent=False)
        own_mean, own_std = cast(Tensor, self.own.mean), cast(Tensor, self.own.std)
        self.register_buffer("black", -own_mean / own_std, persistent=False)
        self.register_buffer("white", (1 - own_mean) / own_std, persistent=False)
        self.num_classes, self.in_chans = teacher.num_classes, self.own.in_chans
        statistics = {"mean": self.own.mean, "std": self.own.std}
        self.pretrained_cfg = {name: cast(Tensor, value).flatten().tolist() for name, value in statistics.items()}

    def forward(self, x: Tensor) -> Tensor:
        if self.renormalise:
            own_mean, own_std = cast(Tensor, self.own.mean), cast(Tensor, self.own.std)
            x = (x * cast(Tensor, self.std) + cast(Tensor, self.mean) - own_mean) / own_std
        if tuple(x.shape[-2:]) != self.own.img_size:
            x = F.interpolate(x, self.own.img_size, mode="bicubic", antialias=True, align_corners=False)
            x = torch.clamp(x, cast(Tensor, self.black), cast(Tensor, self.white))
        return self.teacher(x).logits


def timm_task(
    recipe: Recipe, teacher: FrozenTeacher, batches: Sequence[Ready], accelerator: Accelerator, compiled: bool
) -> Step:
    """A step of timm's LogitDistillationTask. ImportError if this timm has none."""
    from timm.task import LogitDistillationTask

    student = _student(recipe, accelerator)
    task = LogitDistillationTask(
        student,
        PlainTeacher(teacher, None, None).to(accelerator.device),
        nn.CrossEntropyLoss(),
        task_loss_weight=HALF,
        temperature=temperature(recipe),
        device=accelerator.device,
        verbose=False,
    ).train()
    optimizer = _optimizer(student, recipe)
    if compiled:
        task.compile()
    images = _images(recipe, batches, accelerator)

    def take() -> Tensor:
        x, labels = next(images)
        with accelerator.autocast():
            loss = task(x, labels)["loss"]
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return take


def torchdistill_box(
    recipe: Recipe, teacher: FrozenTeacher, batches: Sequence[Ready], accelerator: Accelerator, compiled: bool
) -> Step:
    """A step of torchdistill's DistillationBox, as its example scripts take it. ImportError where it is missing."""
    from torchdistill.core.distillation import DistillationBox

    logging.getLogger("torchdistill").setLevel(logging.WARNING)
    optim, student = recipe.optim, _student(recipe, accelerator)
    kwargs = {"lr": optim.lr, "betas": optim.betas, "eps": optim.eps, "weight_decay": optim.weight_decay, "fused": True}
    where = {"student_module_path": ".", "student_module_io": "output"}
    where |= {"teacher_module_path": ".", "teacher_module_io": "output"}
    criterion = {"key": "KDLoss", "kwargs": where | {"temperature": temperature(recipe), "alpha": HALF}}
    terms = {"kd": {"criterion": criterion, "weight": 1.0}}
    box = DistillationBox(
        PlainTeacher(teacher, recipe.student.input_mean, recipe.student.input_std).to(accelerator.device),
        student,
        {},
        {
            "num_epochs": 1,
            "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
            "student": {"forward_proc": "forward_batch_only"},
            "optimizer": {"key": "AdamW", "kwargs": kwargs},
            "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
        },
        accelerator.device,
        [],
        False,
        1,
    )
    images = _images(recipe, batches, accelerator)
    student.train()
    if compiled:
        for model in (box.student_model, box.teacher_model):
            cast(nn.Module, model).compile()

    def take() -> Tensor:
        x, labels = next(images)
        with accelerator.autocast():
            loss = box.forward_process(x, labels)
        box.post_forward_process(loss)
        return loss.detach()

    return take


def plain_loop(
    recipe: Recipe, teacher: FrozenTeacher, batches: Sequence[Ready], accelerator: Accelerator, compiled: bool
) -> Step:
    """A step as one writes it by hand."""
    student = _student(recipe, accelerator)
    model: Any = PlainTeacher(teacher, recipe.student.input_mean, recipe.student.input_std).to(accelerator.device)
    images, optimizer, tau = _images(recipe, batches, accelerator), _optimizer(student, recipe), temperature(recipe)
    if compiled:
        model.compile()
        student.compile()

    def take() -> Tensor:
        x, labels = next(images)
        with accelerator.autocast():
            with torch.no_grad():
                target = model(x)
            logits = student(x)
            soft = F.kl_div((logits / tau).log_softmax(-1), (target / tau).softmax(-1), reduction="batchmean")
            loss = HALF * F.cross_entropy(logits, labels) + HALF * tau**2 * soft
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return take


def losses_of(step: Step) -> float:
    """The loss of a step, which is thrown away."""
    return float(step())


def said_differently(recipe: Recipe, ours: FrozenTeacher, plain: FrozenTeacher, views: Tensor) -> float:
    """The largest difference of the teacher's logits as a peer gets them, as a share of the largest logit.

    The worse of the two ways in which peers normalise.
    """
    config = recipe.student
    mean, std = config.input_mean, config.input_std
    x = Preprocess(config.img_hw, mean, std).to(views.device)(views)
    expected = ours(views).logits
    own = [cast(Tensor, value) for value in (plain.preprocess.mean, plain.preprocess.std)]
    by_timm = (x * x.new_tensor(std).view(-1, 1, 1) + x.new_tensor(mean).view(-1, 1, 1) - own[0]) / own[1]
    with torch.no_grad():
        answers = [
            PlainTeacher(plain, mean, std).to(views.device)(x),
            PlainTeacher(plain, None, None).to(views.device)(by_timm),
        ]
    return max(float((answer - expected).abs().max() / expected.abs().max()) for answer in answers)


PEERS: dict[str, tuple[str, Callable[..., Step]]] = {
    "timm": ("timm's LogitDistillationTask", timm_task),
    "torchdistill": ("torchdistill's DistillationBox", torchdistill_box),
    "loop": ("a loop written by hand", plain_loop),
}


def _student(recipe: Recipe, accelerator: Accelerator) -> nn.Module:
    """The student as timm builds it from our folder, with the weights that ours starts with."""
    import timm

    import students

    torch.manual_seed(recipe.seed)
    with tempfile.TemporaryDirectory() as folder:
        saved = students.save(recipe.student.build(), Path(folder) / "student")
        student = timm.create_model(f"local-dir:{saved}", pretrained=True).to(accelerator.device).train()
    cast(Any, student).in_chans = recipe.student.in_chans  # timm's task asks for it
    return student


def _optimizer(student: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    optim = recipe.optim
    return torch.optim.AdamW(
        student.parameters(), lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay, fused=True
    )


def _images(recipe: Recipe, batches: Sequence[Ready], accelerator: Accelerator):
    config = recipe.student
    preprocess = Preprocess(config.img_hw, config.input_mean, config.input_std).to(accelerator.device)
    ready = []
    for batch in batches:
        assert batch.batch.labels is not None
        ready.append((preprocess(batch.plain), batch.batch.labels.to(accelerator.device)))
    return cycle(ready)
