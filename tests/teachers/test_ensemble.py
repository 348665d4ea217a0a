"""Several teachers as one: the mean they give, whose grids are called what, and what is refused."""

import re

import pytest
import torch
import tyro
from torch import Tensor

from distill.losses import BCETargets, CosineEmbedding, Hint
from distill.recipe import from_json, to_json
from students.outputs import Shapes
from teachers import Ensemble, FrozenEnsemble, Head, Teacher

CNN, VIT = Teacher(name="test_resnet", img_size=64), Teacher(name="test_vit", img_size=96)


def built(**options) -> FrozenEnsemble:
    torch.manual_seed(1)
    return Ensemble(CNN, VIT, **options).build(pretrained=False)


@pytest.fixture(scope="module")
def views() -> Tensor:
    return torch.rand(3, 3, 48, 40, generator=torch.Generator().manual_seed(2))


def test_the_logits_are_the_logarithm_of_the_weighted_mean_of_probabilities(views) -> None:
    ensemble = built(weights=(1, 3)).double()
    ours = ensemble(views).logits
    cnn, vit = (member(views).logits.double().softmax(1) for member in ensemble.members)
    torch.testing.assert_close(ours.double().exp(), 0.25 * cnn + 0.75 * vit, atol=1e-9, rtol=1e-6)
    assert ensemble.shapes.log_probabilities


def test_the_mean_of_two_by_hand() -> None:
    # softmax(ln 3, 0) = (3/4, 1/4), softmax(0, 0) = (1/2, 1/2), softmax of the mean (ln 3 / 2, 0) = (√3, 1) / (√3 + 1).
    said = {0: torch.tensor([[3.0, 1.0]]).log(), 1: torch.zeros(1, 2)}
    mean = built()._mean(said)
    assert mean.exp().tolist() == [pytest.approx([5 / 8, 3 / 8], rel=1e-6)]
    softened = built(average="logits")._mean(said).softmax(1)
    assert softened.tolist() == [pytest.approx([0.6339746, 0.3660254], rel=1e-6)]
    # At temperature 2 a loss sees p^(1/2) of the mean, not the mean of the members softened.
    assert (mean / 2).softmax(1)[0, 0] == pytest.approx(5**0.5 / (5**0.5 + 3**0.5), rel=1e-6)


def test_every_member_keeps_its_size_and_statistics(views) -> None:
    deit = Teacher(name="deit_tiny_patch16_224", img_size=32)
    for member, size, mean in zip(
        Ensemble(CNN, deit).build(pretrained=False).members, (64, 32), (0.5, 0.485), strict=True
    ):
        x = member.preprocess(views)
        assert x.shape == (3, 3, size, size)
        assert member.preprocess.get_buffer("mean")[0].item() == pytest.approx(mean)
        torch.testing.assert_close(member(views).logits, member.model(x), atol=1e-5, rtol=0)


def test_layers_are_named_by_member() -> None:
    shapes = Ensemble(CNN, VIT).shapes()
    assert [len(member.grids) for member in shapes.members] == [5, 6]
    names = {"1:-1": 10, "1:0": 5, "1:0.5": 7, "0:-1": 4, -1: 4, 1.0: 4, 0.4: 1, 3: 3, 7: 7}
    assert {name: shapes.layer(name) for name in names} == names
    assert [shapes.name_of(layer) for layer in (0, 4, 5, 10)] == ["0:0", "0:4", "1:0", "1:5"]
    assert shapes.grids[10] == VIT.shapes().grids[5] == (64, 6, 6)
    for wrong, message in {
        "2:0": "layer '2:0' is of no member; name it as MEMBER:LAYER, such as '1:-1', of members 0 to 1",
        "1:9": "in member 1, there is no layer 9; it has 6 layers",
        "1:head": "in member 1, there is no layer 'head'; use a number, such as -1 or 0.5",
        11: "there is no layer 11; it has 11 layers",
    }.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            shapes.layer(wrong)
    with pytest.raises(ValueError, match="there is no layer '1:-1'; use a number"):
        CNN.shapes().layer("1:-1")


def test_grids_come_from_the_member_that_is_named(views) -> None:
    ensemble = built()
    out = ensemble(views, ensemble.shapes.layers(["1:-1", 0]))
    cnn, vit = ensemble.members
    assert torch.equal(out.grids[0], cnn(views, [0]).grids[0])
    assert torch.equal(out.grids[10], vit(views, [5]).grids[5])
    assert out.embedding is not None
    assert torch.equal(out.embedding, cnn(views).embedding)
    assert {i: tuple(grid.shape[1:]) for i, grid in out.grids.items()} == {i: ensemble.shapes.grids[i] for i in (0, 10)}


def test_a_draw_is_a_function_of_its_seed_with_the_weights_for_frequencies(views) -> None:
    ensemble = built(weights=(1, 3), draw="random")
    drawn = [ensemble._answering(seed)[0] for seed in range(2000)]
    assert sum(drawn) / 2000 == pytest.approx(0.75, abs=0.03)  # three deviations are 0.029
    assert drawn == [ensemble._answering(seed)[0] for seed in range(2000)]
    by_member = {number: member(views).logits for number, member in enumerate(ensemble.members)}
    for seed in (drawn.index(0), drawn.index(1)):
        out = ensemble(views, [0, 10], seed)
        assert torch.equal(out.logits, by_member[drawn[seed]])
        assert list(out.grids) == [0, 10]
        assert out.embedding is None
    torch.testing.assert_close(ensemble(views).logits.exp().sum(1), torch.ones(3))  # no seed: the mean


def test_a_member_of_weight_0_gives_its_grids_alone(views) -> None:
    config = Ensemble(CNN, Teacher(name="vit_tiny_patch16_224", img_size=32), weights=(1, 0))
    ensemble = config.build(pretrained=False)
    assert torch.equal(ensemble(views).logits, ensemble.members[0](views).logits)
    assert ensemble(views, [5]).grids[5].shape == (3, 192, 2, 2)


def head(classes: int, embedding: int) -> Head:
    return Head(torch.randn(classes, embedding), torch.randn(classes), l2=0.1, heldout_top1=0.5, heldout_nll=1.0)


def test_every_member_answers_with_its_own_fitted_head(views) -> None:
    config = Ensemble(Teacher(name="test_resnet", head="fit"), Teacher(name="test_vit", head="fit"))
    assert config.head == "fit"
    heads = head(7, 96), head(7, 64)
    ensemble = config.build(head=heads, pretrained=False)
    assert ensemble.num_classes == ensemble.shapes.num_classes == 7
    one, two = (own(member(views).embedding).softmax(1) for own, member in zip(heads, ensemble.members, strict=True))
    torch.testing.assert_close(ensemble(views).logits.exp(), (one + two) / 2)
    assert ensemble.num_params() == sum(member.num_params() for member in ensemble.members)
    with pytest.raises(ValueError, match="'test_resnet' answers with 7 classes but 'test_vit' with 1000"):
        config.build(head=(heads[0], None), pretrained=False)


def test_it_never_trains() -> None:
    ensemble = built()
    torch.nn.ModuleDict({"teacher": ensemble}).train()
    assert not any(module.training for module in ensemble.modules())
    assert not any(parameter.requires_grad for parameter in ensemble.parameters())


def test_losses_that_cannot_read_it_say_so() -> None:
    student = Shapes(1000, False, 8, {0: (8, 4, 4)})
    random = Ensemble(CNN, VIT, draw="random").shapes()
    with pytest.raises(ValueError, match="reads the teacher's embedding but this teacher hands out none"):
        CosineEmbedding().bind(student, random)
    CosineEmbedding(pairs=((0, "1:-1"),)).bind(student, random)
    with pytest.raises(ValueError, match=r"logarithms of a mean of softmaxes; use --teacher.average logits"):
        BCETargets(multi_label=True).bind(student, Ensemble(CNN, VIT).shapes())
    BCETargets(multi_label=True).bind(student, Ensemble(CNN, VIT, average="logits").shapes())
    assert Hint(pairs=((0, "1:-1"),)).bind(student, random).pairs[0].teacher == 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ensemble(CNN), "an ensemble has 1 members; give it two or more"),
        (lambda: Ensemble(CNN, Ensemble(CNN, VIT)), "a member of an ensemble is an ensemble"),  # pyright: ignore
        (lambda: Ensemble(CNN, VIT, weights=(1,)), "weights of an ensemble of 2 are (1,); give 2 of 0 or more"),
        (lambda: Ensemble(CNN, VIT, weights=(1, -1)), "are (1, -1)"),
        (lambda: Ensemble(CNN, VIT, weights=(0, 0)), "not all 0"),
        (lambda: Ensemble(CNN, VIT, weights=(1, float("nan"))), "nan"),
    ],
)
def test_what_no_ensemble_can_be_is_refused(make, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_members_of_other_classes_are_refused(tmp_path) -> None:
    import students

    config = students.ViTConfig(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=1, num_classes=2)
    folders = [students.save(config.build(), tmp_path / n, label_names=n.split("-")) for n in ("cat-dog", "dog-cat")]
    cats, dogs = (Teacher(name=str(folder)) for folder in folders)
    with pytest.raises(ValueError, match="member 0 calls a class 'cat' where member 1 has 'dog'; use head 'fit'"):
        Ensemble(cats, dogs).shapes()
    with pytest.raises(ValueError, match=r"has 2 classes but member 1 'test_resnet' has 1000; use head 'fit'"):
        Ensemble(cats, CNN).shapes()
    assert Ensemble(CNN, cats, weights=(1, 0)).shapes().num_classes == 1000
    mixed = Ensemble(cats, Teacher(name="test_resnet", head="fit"))
    mixed.check_fit(mixed.shapes(), 2)
    with pytest.raises(ValueError, match=r"has 2 classes but the data has 5; use --teacher.members.0.head fit"):
        mixed.check_fit(mixed.shapes(), 5)


def test_it_is_a_value_that_json_and_the_command_line_can_write() -> None:
    config = Ensemble(CNN, VIT, weights=(0.25, 0.75), draw="random")
    assert from_json(to_json(config)) == config
    options = ["--members.1.name", "test_convnext", "--weights", "1", "2", "--average", "logits"]
    changed = tyro.cli(Ensemble, args=options, default=config, config=(tyro.conf.AvoidSubcommands,))
    assert changed == Ensemble(
        CNN, Teacher(name="test_convnext", img_size=96), weights=(1, 2), average="logits", draw="random"
    )
