"""Peers are given our job: their first loss and their gradients are ours."""

import copy

import pytest
import torch

from distill import Optim, Recipe, Synthetic, preflight
from distill.bench.peers import PEERS, said_differently, same_job
from distill.bench.steps import ready_batches, step
from distill.losses import CrossEntropy, HardTargets, Hint, SoftTargets
from distill.options import RunOptions
from students import ViTConfig
from teachers import Teacher

SOFT = SoftTargets(weight=3.0, temperature=2.0)


def plan_of(in_chans: int, size: int):
    recipe = Recipe(
        student=ViTConfig(
            img_size=32,
            patch_size=8,
            in_chans=in_chans,
            embed_dim=24,
            depth=2,
            num_heads=2,
            distilled=True,
            num_classes=1000,
        ),
        teacher=Teacher(name="resnet18", img_size=size, runtime="eager"),
        data=Synthetic(num_classes=1000, images=64, val_images=8, img_size=32),
        losses={"labels": CrossEntropy(), "hard": HardTargets(), "soft": SOFT, "hint": Hint(pairs=((0, 1),))},
        optim=Optim(batch_size=8, epochs=1, warmup_epochs=0),
    )
    return preflight.check(same_job(recipe))


def test_the_job_is_labels_and_soft_targets_at_the_recipes_temperature():
    recipe = plan_of(3, 32).recipe
    assert recipe.losses == {"labels": CrossEntropy(weight=0.5), "soft": SoftTargets(weight=0.5, temperature=2.0)}
    assert not recipe.student.distilled


@pytest.mark.parametrize(("in_chans", "size"), [(3, 32), (1, 64)])
def test_every_peer_has_our_loss_at_its_first_step_and_after_it(in_chans, size):
    from accelerate import Accelerator

    accelerator, plan = Accelerator(cpu=True), plan_of(in_chans, size)
    batches = ready_batches(plan, 2, accelerator.device)
    torch.manual_seed(3)
    assert plan.recipe.teacher is not None
    teacher = plan.recipe.teacher.build(head=None, layers=(), pretrained=False)

    def teach(ready):
        return teacher(ready.plain)

    ours = step(plan.recipe, plan, teach, batches, accelerator, RunOptions(), plain=True)
    expected = float(ours())
    for _, make in PEERS.values():
        theirs = make(plan.recipe, teacher, batches, accelerator, False)
        assert float(theirs()) == pytest.approx(expected, rel=1e-5)


def test_the_plain_loop_and_timm_take_the_same_steps():
    from accelerate import Accelerator

    accelerator, plan = Accelerator(cpu=True), plan_of(3, 32)
    batches = ready_batches(plan, 2, accelerator.device)
    torch.manual_seed(3)
    assert plan.recipe.teacher is not None
    teacher = plan.recipe.teacher.build(head=None, layers=(), pretrained=False)
    one, other = (PEERS[name][1](plan.recipe, teacher, batches, accelerator, False) for name in ("loop", "timm"))
    for _ in range(3):
        assert float(one()) == pytest.approx(float(other()), rel=1e-5)


def test_a_teacher_that_is_asked_wrongly_is_found_out():
    plan = plan_of(3, 64)
    views = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(3)
    config = plan.recipe.teacher
    assert isinstance(config, Teacher)
    teacher = config.build(head=None, layers=(), pretrained=False)
    assert said_differently(plan.recipe, teacher, teacher, views) < 1e-4
    blind = copy.deepcopy(teacher)
    blind.model.forward_features = lambda x: type(teacher.model).forward_features(blind.model, x * 0)
    assert said_differently(plan.recipe, teacher, blind, views) > 0.1
