"""A module of the user's own teaches: what it says is what it says when it is called, and names lead to its layers."""

import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
import timm
import torch
import tyro
from torch import Tensor, nn

from distill.losses import Hint, SoftTargets
from distill.recipe import from_json, to_json
from students.outputs import Shapes
from teachers import Custom, Ensemble, Head, Teacher

SIZE = {"img_size": 64, "mean": (0.5,) * 3, "std": (0.25,) * 3}


def resnet() -> nn.Module:
    return timm.create_model("test_resnet", num_classes=7)


class Tokens(nn.Module):
    """Patches and a class token, and an object for an output."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 6, 4, 4)
        self.block = nn.Linear(6, 6)
        self.idle = nn.Linear(6, 6)
        self.top = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> SimpleNamespace:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.block(torch.cat([x.mean(1, keepdim=True), x], 1))
        return SimpleNamespace(logits=self.top(x[:, 0]))


TOKENS = Custom(
    model=Tokens, img_size=(8, 12), mean=(0.3,), std=(0.2,), layers=("block",), prefix_tokens=1, classifier="top"
)
RESNET = Custom(model=resnet, layers=("layer2", "layer4"), classifier="fc", **SIZE)


def test_it_says_what_the_module_says() -> None:
    teacher, views = RESNET.build(layers=[0]), torch.rand(2, 3, 40, 50)
    out, x = teacher(views, [1, 0]), teacher.preprocess(views)
    timms = Teacher(name="test_resnet", img_size=64).build(pretrained=False)
    timms.model = teacher.model.model  # the same weights, read the way of timm
    with torch.no_grad():
        features, grids = timms.model.forward_intermediates(x)
    torch.testing.assert_close(out.logits, timms.model(x), atol=1e-6, rtol=0)
    torch.testing.assert_close(out.embedding, timms.model.forward_head(features, pre_logits=True), atol=1e-6, rtol=0)
    for ours, theirs in ((0, 2), (1, 4)):
        torch.testing.assert_close(out.grids[ours], grids[theirs], atol=1e-6, rtol=0)


def test_its_shapes_and_layers_are_known_before() -> None:
    shapes = RESNET.shapes()
    assert (shapes.num_classes, shapes.embedding, shapes.grids) == (7, 96, {0: (48, 8, 8), 1: (96, 2, 2)})
    assert [shapes.layer(name) for name in ("layer2", "layer4", 0.5, -1)] == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="there is no layer 'layer3'; it names layer2, layer4"):
        shapes.layer("layer3")
    both = Ensemble(Teacher(name="test_resnet", head="fit"), RESNET).shapes()
    assert both.layer("1:layer4") == 6
    student = Shapes(7, False, 8, {0: (8, 4, 4)})
    assert Hint(pairs=((0, "layer2"),)).bind(student, shapes).pairs[0].teacher_shape == (48, 8, 8)
    SoftTargets().bind(student, shapes)


def test_tokens_become_a_grid_of_the_images_aspect() -> None:
    teacher = TOKENS.build()
    assert teacher.shapes.grids == {0: (6, 2, 3)}
    views = torch.rand(2, 1, 8, 12)
    out, model = teacher(views, [0]), teacher.model.model
    with torch.no_grad():
        by_hand = model.block(model.patches((views - 0.3) / 0.2).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(out.grids[0], by_hand)


def test_without_a_classifier_there_is_no_embedding() -> None:
    plain = Custom(model=resnet, **SIZE)
    assert plain.shapes().embedding == 0
    assert plain.build()(torch.rand(1, 3, 64, 64)).embedding is None
    with pytest.raises(ValueError, match="hands out no grids of its layers"):
        plain.build(layers=[0])


def test_a_head_can_be_fitted_in_place_of_its_classifier() -> None:
    head = Head(torch.randn(4, 96), torch.randn(4), l2=1, heldout_top1=0, heldout_nll=0)
    own, fitted = RESNET.build(), RESNET.build(head=head)
    assert fitted(torch.rand(2, 3, 64, 64)).logits.shape == (2, 4)
    assert own.num_params() - fitted.num_params() == 97 * 7 - 97 * 4


def test_random_parts_are_always_the_same() -> None:
    before = torch.get_rng_state()
    one, other = (RESNET.build().model.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), before)


def test_hooks_leave_the_module_as_it_was() -> None:
    teacher = RESNET.build()
    teacher(torch.rand(1, 3, 64, 64), [0, 1])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in teacher.model.model.modules())


def test_a_fast_runtime_agrees() -> None:
    teacher = RESNET.build().start(torch.device("cpu"), [0, 1])
    assert teacher.runtime_note.startswith("onnxruntime")
    views = torch.rand(3, 3, 64, 64)
    eager = RESNET.build()(views, [0, 1])
    torch.testing.assert_close(teacher(views, [0, 1]).logits, eager.logits, atol=1e-3, rtol=0)
    torch.testing.assert_close(teacher(views, [0, 1]).grids[1], eager.grids[1], atol=1e-3, rtol=0)


def test_it_is_a_value_named_by_its_function() -> None:
    assert str(RESNET.model) == f"{__name__}:resnet"
    assert (RESNET.name, RESNET.weights_source()) == ("resnet", f"function {__name__}:resnet")
    assert from_json(to_json(RESNET)) == RESNET
    options = ["--img-size", "32", "--layers", "layer3"]
    changed = tyro.cli(Custom, args=options, default=RESNET)
    assert (changed.img_size, changed.layers, changed.model) == (32, ("layer3",), RESNET.model)


def returns_none() -> None: ...


def local():
    return lambda: resnet()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": local()}, "model is local.<locals>.<lambda>, which recipe.json cannot name; give a function of the"),
        ({"model": nn.Linear(1, 1)}, "model is a Linear, which recipe.json cannot name"),
        ({"model": "nowhere:model"}, "nowhere:model is not imported here; name its script with --script FILE"),
        ({"model": "os:abort"}, "os:abort is not imported here"),
        ({"model": returns_none}, "returns_none returned a NoneType; let it return the nn.Module"),
        ({"layers": ("layer9",)}, "'resnet' has no submodule 'layer9'; did you mean layer"),
        ({"layers": ("fc",)}, "layer 'fc' gives [2, 7]; name one that gives [B, C, H, W] or [B, N, C]"),
        ({"classifier": "layer4"}, "the input of 'layer4' is [2, 192, 4, 4]; name the submodule that takes [B, D]"),
        ({"classes": ("a", "b")}, "has 7 logits but 2 classes are named"),
        ({"std": (1.0,)}, "must have one number a channel"),
        ({"img_size": 0}, "img_size is 0"),
        ({"mean": (0.5,), "std": (0.5,)}, "'resnet' cannot take images [2, 1, 64, 64]:"),
        ({"classifier": None, "head": "fit"}, "head 'fit' reads the embedding; name the submodule"),
        ({"model": Tokens, "mean": (0,), "std": (1,), "layers": ("idle",), "classifier": None}, "'idle' does not run"),
        ({"model": Tokens, "mean": (0,), "std": (1,), "layers": ("block",), "classifier": None}, "set prefix_tokens"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(options, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        Custom(**{"model": resnet, "classifier": "fc", **SIZE, **options}).shapes()
    assert "\n" not in str(refusal.value)


def test_a_function_of_a_script_is_found_where_the_script_was_imported(monkeypatch) -> None:
    script = ModuleType("a_script")
    exec("import timm\ndef net():\n    return timm.create_model('test_resnet', num_classes=2)", vars(script))
    with pytest.raises(ValueError, match="cannot name"):
        Custom(model=script.net, **SIZE)
    monkeypatch.setitem(sys.modules, "a_script", script)
    teacher = Custom(model=script.net, **SIZE)
    assert (teacher.model, teacher.shapes().num_classes) == ("a_script:net", 2)


def broken():
    raise FileNotFoundError("weights.pth")


def test_a_function_that_fails_is_named_in_one_line() -> None:
    custom = Custom(model=broken, img_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(ValueError, match=r"broken failed: FileNotFoundError: weights\.pth; mend that function$"):
        custom.shapes()


def in_place() -> nn.Module:
    parts = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    return nn.Sequential(*parts)


def test_a_grid_is_what_its_submodule_gave_before_the_next_one_changed_it() -> None:
    custom = Custom(model=in_place, img_size=8, mean=(0.5,) * 3, std=(0.5,) * 3, layers=("0",), runtime="eager")
    teacher = custom.build(layers=[0])
    views = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = teacher.model.model[0](teacher.preprocess(views))
    assert expected.min() < 0
    assert torch.equal(teacher(views, [0]).grids[0], expected)


class Twice(nn.Module):
    """One layer that runs twice a call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.top = nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.layer(self.layer(x)).mean((2, 3)))


def test_a_submodule_that_runs_twice_has_no_one_output() -> None:
    with pytest.raises(ValueError, match="submodule 'layer' runs more than once a call"):
        Custom(model=Twice, layers=("layer",), **SIZE).shapes()
    assert Custom(model=Twice, classifier="top", **SIZE).shapes().embedding == 3
