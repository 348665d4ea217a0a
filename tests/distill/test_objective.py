"""The objective: the weighted sum of its terms, in float32 under autocast, with the student alone in its name space."""

import pytest
import torch

from distill.losses import CrossEntropy, HardTargets, Hint, SoftTargets
from distill.objective import Objective
from students import Outputs, Shapes, ViTConfig

CONFIG = ViTConfig(img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=3, distilled=True)
TEACHER = Shapes(3, False, 4, {0: (4, 4, 4), 1: (6, 2, 2)})
LOSSES = {
    "labels": CrossEntropy(weight=0.5),
    "hard": HardTargets(weight=0.25),
    "hint": Hint(weight=2.0, pairs=((0, 1), (-1, 0))),
    "off": SoftTargets(weight=0.0),
}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    views = torch.randint(0, 256, (4, 3, 8, 8), generator=generator, dtype=torch.uint8)
    grids = {i: torch.randn(4, *shape, generator=generator) for i, shape in TEACHER.grids.items()}
    return views, Outputs(torch.randn(4, 3, generator=generator), grids=grids), torch.tensor([0, 1, 2, 0])


def objective() -> Objective:
    torch.manual_seed(0)
    return Objective(CONFIG.build(), LOSSES, TEACHER)


def test_total_is_the_weighted_sum_and_a_weight_of_0_is_left_out(batch):
    terms = objective()(*batch)
    assert list(terms) == ["total", "labels", "hard", "hint"]
    by_hand = 0.5 * terms["labels"] + 0.25 * terms["hard"] + 2.0 * terms["hint"]
    assert terms["total"].item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_every_parameter_gets_a_gradient(batch):
    # One that gets none stops distributed training.
    module = objective()
    module(*batch)["total"].backward()
    assert [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None] == []


def test_layers_are_resolved_once_for_both_models():
    module = objective()
    assert (module.student_layers, module.teacher_layers) == ([0, 1], [0, 1])
    names = {name.split(".")[0] for name in module.state_dict()}
    assert names == {"student", "projections"}


def test_under_bf16_autocast_the_losses_are_float32_and_close(batch):
    module = objective().eval()
    plain = module(*batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = module(*batch)
    for name, term in mixed.items():
        assert term.dtype == torch.float32
        assert term.item() == pytest.approx(plain[name].item(), rel=0.03)


@pytest.mark.parametrize("name", ["total", "half", "forward", "a.b", ""])
def test_a_name_that_the_sum_or_torch_needs_is_refused(name):
    with pytest.raises(
        ValueError, match=f"no loss can be named '{name}', which the sum or PyTorch needs; call it otherwise"
    ):
        Objective(CONFIG.build(), LOSSES | {name: Hint(pairs=((0, 1),))}, TEACHER)
