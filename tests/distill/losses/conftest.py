"""Two small models' shapes, and what they say about a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from distill import losses
from distill.losses import Address, CrossEntropy
from distill.objective import Objective
from students import Outputs, Shapes, ViTConfig

CLASSES = 5
STUDENT = ViTConfig(img_size=(8, 12), patch_size=4, embed_dim=8, depth=4, num_heads=2, num_classes=CLASSES)
TEACHER = Shapes(
    CLASSES, False, 7, {0: (4, 8, 12), 1: (6, 4, 6), 2: (6, 2, 3), 3: (8, 2, 3), 4: (10, 2, 2)}
)  # a CNN of five stages
IMAGES = 40


def every_loss() -> list[str]:
    """The names of all losses that a recipe can name."""
    from distill.catalogue import names

    return names()


def small(name: str, **options: Any) -> Any:
    """A loss with its defaults, but for what two small models do not have."""
    fits: dict = {"CRD": {"negatives": 16}, "Manifold": {"pairs": ((0.5, 0.5), (1.0, 1.0))}}
    return getattr(losses, name)(**fits.get(name, {}) | options)


def objective_of(loss: Any, student: ViTConfig = STUDENT, teacher: Shapes = TEACHER, **more: Any) -> Objective:
    """An objective of this loss, with labels for the heads that it leaves alone."""
    torch.manual_seed(0)
    also = {"class": CrossEntropy(weight=0.1)}
    if student.distilled:
        also["token"] = CrossEntropy(weight=0.1, head="token")
    return Objective(student.build(), {"loss": loss, **also, **more}, teacher, images=IMAGES)


def batch_of(images: int, teacher: Shapes = TEACHER, *, seed: int = 0, progress: float = 0.5) -> tuple:
    """Views, what the teacher says, labels and address: what an objective is called with."""
    generator = torch.Generator().manual_seed(seed)
    views = torch.rand(images, 3, 8, 12, generator=generator)
    target = Outputs(
        3 * torch.randn(images, teacher.num_classes, generator=generator),
        embedding=torch.randn(images, teacher.embedding, generator=generator),
        grids={i: 2 * torch.randn(images, *shape, generator=generator) for i, shape in teacher.grids.items()},
    )
    labels = torch.arange(images) % teacher.num_classes
    index = torch.randperm(IMAGES, generator=generator)[:images]
    return views, target, labels, Address(index=index, start=0, total=images, seed=7, progress=progress)


@pytest.fixture
def objective() -> Callable[..., Objective]:
    return objective_of


@pytest.fixture
def batch() -> Callable[..., tuple]:
    return batch_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "loss_name" in metafunc.fixturenames:
        metafunc.parametrize("loss_name", every_loss())


@pytest.fixture
def loss(loss_name: str) -> Callable[..., Any]:
    """The loss of this test's name, made with options."""
    return lambda **options: small(loss_name, **options)


@pytest.fixture
def distilled() -> ViTConfig:
    return replace(STUDENT, distilled=True)


@pytest.fixture
def student() -> ViTConfig:
    return STUDENT
