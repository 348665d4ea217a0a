"""Every kind of model sees an image on its own terms, and answers in the classes that are compared."""

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform

import students
from distill.compare.candidate import keyed
from distill.compare.classes import agree
from distill.compare.command import chosen_reference
from distill.compare.cost import macs
from distill.compare.models import student_candidate, timm_candidate
from distill.compare.named import read
from distill.compare.onnxfile import onnx_candidate
from distill.compare.options import OnnxInput
from distill.compare.terms import Terms, of_views
from distill.compare.validation import find
from distill.predict import Predict
from distill.views import Views, val_transform
from teachers import Teacher, source
from teachers.classnames import readable

DATA = Path(str(importlib.util.find_spec("foolbox").submodule_search_locations[0])) / "data"  # pyright: ignore


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


def test_a_timm_model_sees_what_timm_shows_it(accelerator):
    candidate = timm_candidate("tf_efficientnet_lite0", accelerator, fast=False)
    image = Image.open(DATA / "imagenet_18_317.jpg")
    model = source.load(source.plan(Teacher(name="tf_efficientnet_lite0")), pretrained=True).eval()
    config = resolve_model_data_config(model)
    assert (candidate.img_size, candidate.preprocess.crop_pct) == ((224, 224), 0.875)
    with torch.no_grad():
        show: Any = create_transform(**config)
        theirs = model(show(image.convert("RGB")).unsqueeze(0))
        ours = candidate.logits(candidate.preprocess(image).unsqueeze(0))
        plain = candidate.forward(candidate.prepare(candidate.preprocess(image).unsqueeze(0)))
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert torch.allclose(plain, theirs, atol=1e-4)
    assert ours.argmax() == 317
    assert candidate.params == sum(p.numel() for p in model.parameters()) == 4_652_008
    assert candidate.file is not None
    assert candidate.file.suffix == ".pth"
    assert candidate.layers == (0, 1, 3, 4)  # 0.25, 0.5, 0.75 and all of 5
    space = agree(("n01440764", "n02012849", "n03126707"), keyed([candidate]))
    assert space.labels == (0, 134, 517)
    assert (len(space.classes), space.classes[0], space.classes[134]) == (1000, "tench", "crane (n02012849)")


def test_terms_of_a_recipe_are_its_validation_and_equal_terms_are_one():
    views, image = Views(crop_pct=0.9, interpolation="bilinear"), Image.effect_noise((50, 41), 60)
    terms = of_views(views, (28, 24), 1)
    assert torch.equal(terms(image), val_transform(views, (28, 24), 1)(image))
    assert terms == Terms((28, 24), 1, 0.9, "bilinear")
    assert len({terms, Terms((28, 24), 1, 0.9, "bilinear"), Terms((28, 24), 3, 0.9, "bilinear")}) == 2


def test_a_student_is_the_same_from_its_run_and_from_its_folder(make_run, accelerator):
    run = make_run("run", views=Views(crop_pct=0.8, interpolation="bilinear"))
    recipe = read([str(run)]).runs[run]
    model = students.load(run / "student")
    terms = of_views(recipe.views, recipe.view_size, 1)
    one = student_candidate(model, run, accelerator, baseline=False, terms=terms, names=())
    # What the run's end writes into config.json is what its folder is measured with.
    students.save(model, run / "student", crop_pct=0.8, interpolation="bilinear", view_size=(28, 28))
    other = timm_candidate(str(run / "student"), accelerator, fast=False)
    assert one.preprocess == other.preprocess
    assert other.name == "run/student"
    views = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(one.logits(views), other.logits(views), atol=1e-5)
        assert one.grids is not None
        assert other.grids is not None
        assert torch.allclose(one.grids(views, [1])[1], other.grids(views, [1])[1], atol=1e-5)
    assert one.params == other.params


def test_a_students_folder_is_shown_views_of_the_size_that_it_was_validated_on(make_run, accelerator):
    run = make_run("run")
    students.save(students.load(run / "student"), run / "student", view_size=(20, 30))
    candidate = timm_candidate(str(run / "student"), accelerator, fast=False)
    assert (candidate.preprocess.img_size, candidate.img_size) == ((20, 30), (28, 28))
    assert candidate.logits(torch.zeros(2, 1, 20, 30, dtype=torch.uint8)).shape == (2, 10)


def test_macs_of_a_vit_by_hand(make_run, accelerator):
    run = make_run("run")
    terms = of_views(Views(crop_pct=1.0), (28, 28), 1)
    candidate = student_candidate(
        students.load(run / "student"), run, accelerator, baseline=True, terms=terms, names=()
    )
    tokens, dim = 17, 16
    block = tokens * dim * 3 * dim + 2 * tokens * tokens * dim + tokens * dim * dim + 2 * tokens * dim * 4 * dim
    assert macs(candidate, torch.zeros(1, 1, 28, 28)) == 16 * dim * 49 + 2 * block + dim * 10


WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)
SAID = {"img_size": [4, 4], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 1.0], "crop_pct": 0.5}


@pytest.mark.parametrize("batch", ["batch", 1, 4])
def test_an_onnx_file_is_prepared_as_its_metadata_says(make_onnx, batch):
    file = make_onnx(WEIGHT, batch=batch, **SAID, interpolation="bilinear", label_names=list("wxyz"))
    candidate = onnx_candidate(file, OnnxInput(mean=(9.0,) * 3))
    assert candidate.preprocess == Terms((4, 4), 3, 0.5, "bilinear")
    assert (candidate.params, candidate.num_classes, candidate.names) == (12, 4, ("w", "x", "y", "z"))
    views = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pooled = (views.double() / 255).mean((2, 3)).numpy()
    expected = ((pooled - SAID["mean"]) / SAID["std"]) @ WEIGHT
    assert np.allclose(candidate.logits(views).numpy(), expected, atol=1e-5)


def test_predict_is_told_by_the_same_options_how_images_are_prepared(make_onnx, tmp_path, capsys):
    Image.new("RGB", (4, 4), (0, 255, 0)).save(tmp_path / "green.png")
    file = make_onnx(np.diag([1.0, 2.0, 3.0]))
    plain = OnnxInput(mean=(0.0,) * 3, std=(1.0,) * 3)
    Predict(model=str(file), images=(str(tmp_path / "green.png"),), json=True, onnx=plain)()
    top = json.loads(capsys.readouterr().out)["top"][0]
    expected = round(math.e**2 / (math.e**2 + 2), 6)  # the softmax of 0, 2, 0
    assert top == {"class": 1, "name": None, "probability": expected, "logit": 2.0}


def test_an_onnx_file_whose_images_are_cropped_to_another_size_first(make_onnx):
    candidate = onnx_candidate(make_onnx(WEIGHT, **SAID, view_size=[8, 6], crop_mode="squash"), OnnxInput())
    assert candidate.preprocess == Terms((8, 6), 3, 0.5, "bicubic", "squash")
    black_and_white = torch.zeros(1, 3, 8, 6, dtype=torch.uint8)
    black_and_white[:, :, :4] = 255
    expected = (0.5 - np.array(SAID["mean"])) / SAID["std"] @ WEIGHT
    assert np.allclose(candidate.logits(black_and_white).numpy(), expected, atol=1e-2)
    with pytest.raises(ValueError, match="names 3 classes but gives 4 logits; export it again"):
        onnx_candidate(make_onnx(WEIGHT, **SAID, label_names=list("abc")), OnnxInput())


def test_an_onnx_file_without_metadata_is_prepared_as_asked(make_onnx):
    file = make_onnx(WEIGHT)
    with pytest.raises(ValueError, match=r"does not say how images are normalised; give --onnx\.mean"):
        onnx_candidate(file, OnnxInput())
    candidate = onnx_candidate(file, OnnxInput(mean=(0.0,) * 3, std=(1.0,) * 3, crop_pct=1.0))
    assert candidate.preprocess == Terms((4, 4), 3, 1.0, "bicubic")
    assert candidate.logits(torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)).tolist() == [[12, 15, 18, 21]]


def test_what_is_no_onnx_of_images_is_refused(make_onnx, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"broken\.onnx cannot be read by onnxruntime"):
        onnx_candidate(broken, OnnxInput())
    with pytest.raises(ValueError, match="there is no file"):
        onnx_candidate(tmp_path / "none.onnx", OnnxInput())
    with pytest.raises(ValueError, match="takes 3 channels but mean and std have 1 and 1 numbers"):
        onnx_candidate(make_onnx(WEIGHT, mean=[0.5], std=[0.5]), OnnxInput())


@pytest.fixture
def linear(make_onnx):
    def make(names, classes=3):
        said = SAID | ({"label_names": list(names)} if names else {})
        return onnx_candidate(make_onnx(np.arange(3 * classes).reshape(3, classes), **said), OnnxInput())

    return make


def test_classes_in_another_order_are_found_by_name(linear):
    views = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    straight, turned = linear("abc"), linear("cab")
    space = agree(("a", "b", "c"), [straight, turned])
    assert (space.classes, space.labels) == (("a", "b", "c"), None)
    assert torch.equal(space.candidates[0].logits(views), straight.logits(views))
    assert torch.equal(space.candidates[1].logits(views), turned.logits(views)[:, [1, 2, 0]])


def test_models_of_the_same_further_classes_keep_them(linear):
    more = [linear("wxyz", 4), linear("wxyz", 4)]
    space = agree(("z", "x"), more)
    assert (space.classes, space.labels) == (("w", "x", "y", "z"), (3, 1))
    views = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    mixed = agree(("z", "x"), [more[0], linear("xz", 2)])
    assert (mixed.classes, mixed.labels) == (("z", "x"), None)
    assert torch.equal(mixed.candidates[0].logits(views), more[0].logits(views)[:, [3, 1]])


def test_classes_without_names_go_by_number(linear):
    assert agree((), [linear(()), linear(())]).classes == ("0", "1", "2")
    assert agree((), [linear(()), linear("abc")]).classes == ("a", "b", "c")
    assert agree(("a", "b", "c"), [linear(())]).labels is None


@pytest.mark.parametrize(
    ("names", "own", "message"),
    [
        (("a", "b", "d"), "abc", r"has 3 classes \(a, b, c\), none of which is 'd', a class of the data"),
        (("a", "b"), "", "has 3 classes, none of which is 'a', a class of the data; compare models of the data's"),
    ],
)
def test_other_classes_are_refused(linear, names, own, message):
    with pytest.raises(ValueError, match=message):
        agree(names, [linear(own)])


def test_another_number_of_nameless_classes_is_refused(linear):
    with pytest.raises(ValueError, match="has 4 classes but 3 are compared; compare models of the same classes"):
        agree((), [linear(()), linear((), 4)])


def test_synsets_are_shown_as_words():
    assert readable(("n01440764", "n02012849")) == ("tench", "crane (n02012849)")
    assert readable(("n01440764", "mine")) == ("n01440764", "mine")


def test_keys_are_unique_and_the_reference_is_found_by_any_name(linear):
    one = replace(linear("abc"), name="x", source="a/x.onnx")
    teacher = replace(one, role="teacher", source="hub x")
    models = keyed([one, teacher, replace(one, name="y")])
    assert [model.key for model in models] == ["x", "x (2)", "y"]
    runs = [replace(one, name="x", source=source) for source in ("runs/a/x", "runs/b/x", "old/b/x", "elsewhere")]
    assert [model.key for model in keyed(runs)] == ["a/x", "runs/b/x", "old/b/x", "x"]
    folders = [replace(one, name="x/student", asked=f"{place}/x/student", source="folder") for place in ("a", "b")]
    assert [model.key for model in keyed(folders)] == ["a/x/student", "b/x/student"]
    assert chosen_reference(models, None) is models[1]
    assert chosen_reference(models, "y") is models[2]
    assert chosen_reference(models, "hub x") is models[1]
    asked = [replace(models[0], asked="runs/x/student"), *models[1:]]
    assert chosen_reference(asked, "runs/x/student/") is asked[0]
    assert chosen_reference(models[:1], None) is None
    assert chosen_reference([models[0], models[2]], None) is models[0]
    with pytest.raises(ValueError, match=r"--against z is none of the models compared; use one of 'x', 'x \(2\)', 'y'"):
        chosen_reference(models, "z")


def test_what_is_named_must_be_there_once(make_run, tmp_path):
    run = make_run("run")
    with pytest.raises(ValueError, match="is named twice; name each model once"):
        read([str(run), f"{run}/../run"])
    with pytest.raises(ValueError, match="nothing was named; name a run folder"):
        read([])
    with pytest.raises(ValueError, match="is no run folder"):
        read([str(tmp_path)])
    with pytest.raises(ValueError, match=r"there is no model or run 'resnet81'; did you mean resnet\d+[\w., ]* or "):
        read(["resnet81"])
    with pytest.raises(ValueError, match=r"'.*/rum'; did you mean .*/run\?"):
        read([str(tmp_path / "rum")])
    with pytest.raises(ValueError, match="'zzzzzzzz'; name a run folder such as runs/quickstart, a timm name"):
        read(["zzzzzzzz"])
    with pytest.raises(ValueError, match=r"x\.torchscript\.pt is a file of torch's, and loading one can run code"):
        read(["x.torchscript.pt"])
    (run / "student" / "config.json").unlink()
    with pytest.raises(ValueError, match="has no student yet; run its recipe again to finish it"):
        read([str(run)])


def test_images_come_from_a_folder_an_archive_a_run_or_a_script(make_run, tiny_images, tmp_path):
    run = make_run("run")
    named = read([str(run)])
    own = find(named, None, None)
    assert (own.name, len(own.images), own.classes[0]) == ("tiny", 200, "T-shirt/top")
    assert len(find(read(["resnet18"]), None, run).images) == 200
    assert find(read(["resnet18"]), tiny_images, None).classes == own.classes
    script = tmp_path / "script.py"
    script.write_text(
        "from distill import Arrays, Recipe\nfrom students import ViTConfig\n"
        f"recipe = Recipe(student=ViTConfig(num_classes=10), data=Arrays(path={str(tiny_images)!r}))\n"
    )
    assert len(find(named, None, script).images) == 200

    photos = tmp_path / "photos"
    for name, count in (("dog", 2), ("cat", 3)):
        (photos / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (8, 8), 50 * number).save(photos / name / f"{number}.png")
    everything = find(named, photos, None)
    assert (everything.classes, len(everything.images)) == (("cat", "dog"), 5)
    assert [everything.images[i][1] for i in range(5)] == [0, 0, 0, 1, 1]
    flat = find(named, photos / "cat", None)
    assert (flat.classes, [flat.images[i][1] for i in range(3)]) == ((), [-1] * 3)
    photos.rename(tmp_path / "val")
    (tmp_path / "split" / "train").mkdir(parents=True)
    (tmp_path / "val").rename(tmp_path / "split" / "val")
    (tmp_path / "split" / "train" / "cat").mkdir()
    (tmp_path / "split" / "train" / "dog").mkdir()
    for name in ("cat", "dog"):
        Image.new("L", (8, 8)).save(tmp_path / "split" / "train" / name / "x.png")
    assert len(find(named, tmp_path / "split", None).images) == 5

    with pytest.raises(ValueError, match="give --data PATH"):
        find(read(["resnet18"]), None, None)
    with pytest.raises(ValueError, match="give one of them"):
        find(named, photos, run)
    with pytest.raises(ValueError, match="there is no file or folder"):
        find(named, tmp_path / "none", None)


def test_a_model_without_a_head_is_refused(accelerator, tmp_path):
    model = timm.create_model("test_resnet", num_classes=0)
    timm.models.save_for_hf(model, tmp_path / "headless", model_config={"num_classes": 0})  # pyright: ignore
    with pytest.raises(ValueError, match="has no class head, so it decides nothing"):
        timm_candidate(str(tmp_path / "headless"), accelerator, fast=False)
