"""The learning rate as a function of the step, and which parameters are decayed."""

import math

import pytest
import torch

from distill.losses import CrossEntropy, Hint
from distill.objective import Objective
from distill.optim import build_optimizer, learning_rate
from distill.recipe import Optim
from students import Shapes, ViTConfig

OPTIM = Optim(epochs=10, lr=1e-3, min_lr=1e-5, warmup_lr=1e-6, warmup_epochs=2)


@pytest.mark.parametrize(
    ("step", "value"),
    [
        (0, 1e-6),
        (10, 1e-6 + (1e-3 - 1e-6) / 2),
        (20, 1e-3),
        (60, 1e-5 + (1e-3 - 1e-5) / 2),
        (80, 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * 0.75)) / 2),
        (100, 1e-5),
    ],
)
def test_learning_rate_by_hand(step, value):
    assert learning_rate(OPTIM, step, steps=100, steps_per_epoch=10) == pytest.approx(value, rel=1e-12)


def test_learning_rate_without_warmup_starts_at_the_top():
    assert learning_rate(Optim(warmup_epochs=0, lr=0.5), 0, steps=8, steps_per_epoch=4) == 0.5


@pytest.mark.parametrize(("epochs", "warmup"), [(2, 0.2), (20, 2), (50, 5), (300, 5)])
def test_a_warmup_that_is_left_to_the_run_is_a_tenth_of_it_up_to_five_epochs(epochs, warmup):
    left, said = (Optim(epochs=epochs, warmup_epochs=given) for given in (None, warmup))
    for step in (0, 1, 9, 10, 100, 251):
        wanted = learning_rate(said, step, steps=50 * epochs, steps_per_epoch=50)
        assert learning_rate(left, step, steps=50 * epochs, steps_per_epoch=50) == wanted


def test_decay_spares_biases_norms_positions_and_tokens_and_misses_no_parameter():
    config = ViTConfig(
        img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2, num_classes=3, distilled=True, init_values=1e-4
    )
    teacher = Shapes(3, False, 4, {0: (4, 2, 2)})
    losses = {"labels": CrossEntropy(), "token": CrossEntropy(head="token"), "hint": Hint(pairs=((0, 0),))}
    objective = Objective(config.build(), losses, teacher)
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    decayed, spared = build_optimizer(objective, Optim(weight_decay=0.05), torch.device("cpu")).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    assert {names[id(p)] for p in decayed["params"]} == {
        "student.patch_embed.proj.weight",
        "student.blocks.0.attn.qkv.weight",
        "student.blocks.0.attn.proj.weight",
        "student.blocks.0.mlp.fc1.weight",
        "student.blocks.0.mlp.fc2.weight",
        "student.head.weight",
        "student.head_dist.weight",
        "projections.hint.projections.0.weight",
    }
    assert len(decayed["params"]) + len(spared["params"]) == len(names)
