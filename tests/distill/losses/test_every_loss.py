"""What holds for every loss that a recipe can name: options, schedules, one image, mixed labels, bf16, weight 0."""

from dataclasses import fields, replace

import pytest
import torch

from distill import losses
from distill.losses import Address, Schedule

# Another value of each option; those of `gather` show with two processes alone (test_two_processes).
OTHER = {
    "CRD": {"negatives": 9, "temperature": 0.2, "momentum": 0.9, "dim": 64, "layers": (-1, -1)},
    "DIST": {"beta": 0.5, "gamma": 0.5, "tau": 2.0, "standardize": True, "head": "class"},
    "DKD": {"alpha": 0.5, "beta": 2.0, "temperature": 2.0, "standardize": True, "head": "class"},
    "NKD": {"gamma": 0.5, "temperature": 2.0, "standardize": True, "head": "class"},
    "OFA": {
        "eps": 1.5,
        "temperature": 2.0,
        "layers": (0.5, 1.0),
        "logits": False,
        "standardize": True,
        "head": "class",
    },
    "RKD": {"distance": 5.0, "angle": 10.0, "angle_images": 4, "pairs": ((-1, -1),)},
    "AttentionTransfer": {"pairs": ((0, 3),)},
    "BCETargets": {"multi_label": True, "head": "class"},
    "CosineEmbedding": {"pairs": ((-1, -1),)},
    "CrossEntropy": {"smoothing": 0.1, "head": "token"},
    "HardTargets": {"head": "class"},
    "Hint": {"pairs": ((0, 3),), "normalize": False},
    "Manifold": {"pairs": ((0, 3),), "within": 1.0, "across": 1.0, "random": 1.0, "tokens": 5},
    "SimilarityPreserving": {"pairs": ((0, 3),)},
    "SoftTargets": {"temperature": 2.0, "standardize": True, "head": "class"},
    "ViTKD": {"pairs": ((2, 3),), "generated": (0, 3), "mimic": 1e-2, "generate": 1e-2, "mask_ratio": 0.3},
}


def two_steps(module, batch) -> tuple[float, ...]:
    """The total and the size of the gradient in two steps on the same batch: what is remembered shows in the second."""
    seen = []
    for _ in range(2):
        total = module(*batch)["total"]
        module.zero_grad()
        total.backward()
        size = sum(p.grad.abs().sum().item() for p in module.student.parameters() if p.grad is not None)
        seen += [round(total.item(), 7), round(size, 7)]
    return tuple(seen)


def test_every_option_changes_the_value(loss_name, loss, objective, batch, distilled):
    plain = two_steps(objective(loss(), distilled), batch(6))
    options = {"weight": 0.37, "schedule": Schedule(name="decay", over=0.8), **OTHER[loss_name]}
    untested = {field.name for field in fields(type(loss()))} - set(options) - {"gather"}
    assert not untested
    for name, value in options.items():
        assert two_steps(objective(loss(**{name: value}), distilled), batch(6)) != plain, name


def test_a_schedule_scales_the_term_in_the_total_and_not_in_the_log(loss, objective, batch):
    def terms(schedule, progress):
        module = objective(loss(weight=2.0, schedule=schedule))
        return module(*batch(6, progress=progress))

    full = terms(Schedule(), 0.5)
    rising = terms(Schedule(name="warmup", over=0.8), 0.2)
    assert rising["loss"] == full["loss"]
    rest = 0.1 * full["class"]
    assert (rising["total"] - rest).item() == pytest.approx(0.25 * (full["total"] - rest).item(), rel=1e-4)


def test_one_image_is_enough_but_where_images_are_compared(loss_name, loss, objective, batch):
    module = objective(loss())
    if loss_name in {"DIST", "RKD", "SimilarityPreserving"}:
        assert loss().needs.images == (3 if loss_name == "RKD" else 2)
        with pytest.raises(ValueError, match="compares the images of a batch with each other and was given 1"):
            module(*batch(1))
    else:
        assert loss().needs.images == 1
        total = module(*batch(1))["total"]
        total.backward()
        assert torch.isfinite(total)


def test_dist_without_its_columns_takes_one_image(objective, batch):
    assert torch.isfinite(objective(losses.DIST(gamma=0.0))(*batch(1))["total"])


def test_mixed_labels_are_taken(loss, objective, batch):
    views, target, labels, where = batch(6)
    mixed = 0.7 * torch.nn.functional.one_hot(labels, 5).float() + 0.3 * torch.eye(5)[(labels + 1) % 5]
    plain, of_mixed = (objective(loss())(views, target, y, where)["loss"] for y in (labels, mixed))
    assert torch.isfinite(of_mixed)
    if not loss().needs.labels or isinstance(loss(), (losses.DKD, losses.NKD, losses.OFA)):
        assert of_mixed == plain  # unread, or the largest share alone
    else:
        assert of_mixed != plain


def test_under_bf16_autocast_it_is_float32_and_close(loss, objective, batch):
    module = objective(loss()).eval()
    plain = module(*batch(6))["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = module(*batch(6))["loss"]
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(plain.item(), rel=0.1, abs=1e-4)


def test_every_parameter_gets_a_gradient(loss, objective, batch):
    # One that gets none stops distributed training.
    module = objective(loss())
    module(*batch(6))["total"].backward()
    assert [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None] == []


def test_a_weight_of_0_leaves_nothing_behind(loss, objective, batch):
    module = objective(loss(weight=0.0))
    assert (module.student_layers, module.teacher_layers) == ([], [])
    assert list(module.projections) == []
    assert set(module(*batch(6))) == {"total", "class"}


def test_what_a_loss_says_it_reads_is_what_it_reads(loss, objective, batch):
    views, target, labels, where = batch(6)
    needs, module = loss().needs, objective(loss())

    class Unread:
        def __getattr__(self, name):
            raise AssertionError("was read")

    untouched = {} if needs.teacher_layers else {"grids": Unread()}
    if not needs.embedding:
        untouched["embedding"] = Unread()
    if not needs.teacher_logits:
        untouched["logits"] = Unread()
    where_or_not = where if needs.address else Address(index=Unread(), start=0, total=6, seed=0)  # type: ignore
    bound, own = module.bound["loss"], module.student.outputs(module.preprocess(views), module.student_layers)
    if not needs.labels:
        labels = Unread()
    assert torch.isfinite(bound(own, replace(target, **untouched), labels, *((where_or_not,) if needs.address else ())))


def test_two_of_a_kind_stand_side_by_side(objective, batch):
    module = objective(losses.Hint(pairs=((0, 2),)), also=losses.Hint(pairs=((-1, 3),), weight=1.0))
    terms = module(*batch(6))
    assert terms["loss"] != terms["also"]
    assert {name.split(".")[1] for name, _ in module.named_parameters() if name.startswith("projections")} == {
        "loss",
        "also",
    }


def test_two_that_draw_draw_apart(objective, batch):
    twice = {"also": losses.ViTKD(mimic=0.0), "loss": losses.ViTKD(mimic=0.0)}
    module = objective(twice["loss"], also=twice["also"])
    seeds = []
    for bound in (module.bound["loss"], module.bound["also"]):
        plain = bound.forward
        bound.forward = lambda *given, plain=plain: (seeds.append(given[3].seed), plain(*given))[1]
    module(*batch(6))
    assert len(set(seeds)) == 2


def test_a_part_without_a_factor_is_not_built(objective, batch):
    early = objective(losses.ViTKD(generate=0.0, mask_ratio=0.0))
    assert (early.student_layers, [name for name in early.state_dict() if "generation" in name]) == ([0, 1], [])
    assert torch.isfinite(early(*batch(6))["total"])
    late = objective(losses.ViTKD(mimic=0.0))
    assert (late.student_layers, late.teacher_layers) == ([3], [4])
    assert torch.isfinite(objective(losses.Manifold(pairs=((0, 0),), random=0.0, tokens=1))(*batch(6))["total"])
    assert torch.isfinite(objective(losses.RKD(angle=0.0, angle_images=1))(*batch(6))["total"])


@pytest.mark.parametrize(
    "loss",
    [
        losses.DIST(beta=0.0, gamma=0.0),
        losses.RKD(distance=0.0, angle=0.0),
        losses.DKD(alpha=0.0, beta=0.0),
        losses.ViTKD(mimic=0.0, generate=0.0),
        losses.Manifold(within=0.0, across=0.0, random=0.0),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_a_loss_whose_factors_are_all_0_is_refused(loss, objective):
    with pytest.raises(ValueError, match="are all 0; give one a factor, or the whole loss weight 0"):
        objective(loss)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_is_none_is_refused(value, objective):
    for loss in (losses.SoftTargets(temperature=value), losses.DIST(tau=value), losses.CRD(temperature=value)):
        with pytest.raises(ValueError, match="use a number above 0"):
            objective(loss)


@pytest.mark.parametrize("temperature", [1e-3, 0.07, 100.0])
def test_crd_is_finite_at_any_temperature(temperature, objective, batch):
    module = objective(losses.CRD(negatives=16, temperature=temperature))
    for _ in range(3):
        total = module(*batch(6))["total"]
        total.backward()
        assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_all_together_give_the_sum_of_each(objective, batch, distilled):
    from distill.catalogue import names

    fits: dict = {"CRD": {"negatives": 16}, "Manifold": {"pairs": ((0.5, 0.5), (1.0, 1.0))}}
    several = {name: getattr(losses, name)(**fits.get(name, {})) for name in names()}
    module = objective(losses.SoftTargets(), distilled, **several)
    terms = module(*batch(6))
    by_hand = sum(module.losses[name].weight * term.item() for name, term in terms.items() if name != "total")
    # DKD is halfway through the run, past its warm-up, so every weight is whole.
    assert terms["total"].item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("loss", [losses.dkd, losses.nkd])
@pytest.mark.parametrize("labels", [torch.zeros(4, 1, dtype=torch.long), torch.zeros(1, dtype=torch.long)])
def test_labels_of_another_shape_are_refused(loss, labels):
    with pytest.raises(ValueError, match=r"labels are .* of logits \[4, 3\]; use \[B\], or mixed \[B, K\]"):
        loss(torch.randn(4, 3), torch.randn(4, 3), labels)


def test_a_class_that_the_teacher_rules_out_counts_nothing():
    s, t = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    p = t.index_fill(1, torch.tensor([3]), -torch.inf)
    log_p, log_s = p.log_softmax(-1), s.log_softmax(-1)
    kept = [0, 1, 2, 4]
    expected = (log_p.exp() * (log_p - log_s))[:, kept].sum() / 4
    assert losses.soft_targets(s, p, temperature=1.0).item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.isfinite(losses.dkd(s, p, torch.zeros(4, dtype=torch.long)))
