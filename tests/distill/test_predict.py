"""`python -m distill predict`: the views of validation, answers in order, broken files named, names as they are."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.imagenet_info import ImageNetInfo
from timm.data.transforms_factory import create_transform

import students
from distill import Views
from distill.compare.classes import own_names
from distill.compare.named import load_one
from distill.compare.options import OnnxInput
from distill.predict import Predict, image_paths
from distill.predictions import predictions
from distill.views import val_transform
from students import ViTConfig
from students.preprocess import Preprocess

DATA = Path(str(importlib.util.find_spec("foolbox").submodule_search_locations[0])) / "data"  # pyright: ignore
CPU = torch.device("cpu")
CONFIG = ViTConfig(
    img_size=(16, 24), patch_size=8, in_chans=1, num_classes=10, embed_dim=16, depth=1, num_heads=2, distilled=True
)
NAMES = ("[bold]T-shirt[/bold]", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "靴")


def model_of(config: ViTConfig):
    torch.manual_seed(7)
    model = config.build().eval()
    for name, weight in model.named_parameters():
        if name.startswith("head") and name.endswith("weight"):
            torch.nn.init.normal_(weight, std=0.5)
    return model


@pytest.fixture
def student(tmp_path, monkeypatch):
    """A student that sees views of 20×30 px, made smaller for it."""
    monkeypatch.chdir(tmp_path)
    return students.save(
        model_of(CONFIG),
        tmp_path / "student",
        label_names=NAMES,
        crop_pct=0.8,
        interpolation="bilinear",
        view_size=(20, 30),
    )


@pytest.fixture
def photos(tmp_path):
    """Twelve colour images of other sizes in photos/."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for n in range(12):
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize((40 + 3 * n, 50)).save(tmp_path / "photos" / ("deep" if n % 2 else ".") / f"{n:02}.png")
    return sorted(str(path) for path in (tmp_path / "photos").rglob("*.png"))


def opened(place):
    return load_one(str(place), Accelerator(cpu=True), onnx=OnnxInput())


def answers(place, paths, **options):
    return list(predictions(opened(place), CPU, paths, **{"batch_size": 64, "top_k": 5, **options}))


def command(capsys, **options):
    """Exit code, stdout, stderr."""
    try:
        Predict(**options)()
        code = 0
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_logits_are_those_of_validation_in_training(student, photos):
    views = Views(crop_pct=0.8, interpolation="bilinear", img_size=(20, 30))
    transform = val_transform(views, (20, 30), 1)
    pixels = torch.stack([transform(Image.open(path)) for path in photos])
    assert pixels.shape == (12, 1, 20, 30)
    with torch.no_grad():
        logits = model_of(CONFIG)(Preprocess((16, 24), CONFIG.input_mean, CONFIG.input_std)(pixels))
    for seen, row in zip(answers(student, photos, top_k=10), logits, strict=True):
        assert [index for index, _, _ in seen.top] == row.argsort(descending=True).tolist()
        assert [logit for _, _, logit in seen.top] == pytest.approx(row.sort(descending=True).values.tolist(), abs=1e-6)
        assert [p for _, p, _ in seen.top] == pytest.approx(row.softmax(0).sort(descending=True).values.tolist())


def test_a_folder_of_any_timm_model_is_prepared_as_timm_does_and_has_imagenets_names(tmp_path, photos, capsys):
    from timm.models import save_for_hf

    torch.manual_seed(0)
    model: Any = timm.create_model("test_efficientnet").eval()
    with torch.no_grad():
        model.get_classifier().weight.normal_(std=0.5)
    save_for_hf(model, tmp_path / "cnn", safe_serialization=True)
    transform: Any = create_transform(**resolve_model_data_config(model))
    with torch.no_grad():
        logits = model(torch.stack([transform(Image.open(path).convert("RGB")) for path in photos]))
    seen = answers(tmp_path / "cnn", photos, top_k=1)
    assert [one.top[0][0] for one in seen] == logits.argmax(1).tolist()
    assert [one.top[0][2] for one in seen] == pytest.approx(logits.amax(1).tolist(), abs=1e-4)
    _, out, _ = command(capsys, model=str(tmp_path / "cnn"), images=(photos[0],), json=True, top_k=1)
    index = json.loads(out)["top"][0]["class"]
    names = ImageNetInfo()
    assert json.loads(out)["top"][0]["name"] == names.index_to_label_name(index)
    _, out, _ = command(capsys, model=str(tmp_path / "cnn"), images=(photos[0],), top_k=1)
    assert str(names.index_to_description(index))[:12] in out


def test_timms_own_models_are_taken_by_their_names_and_say_those_of_imagenet(tmp_path, capsys):
    photo = str(DATA / "imagenet_18_317.jpg")
    code, out, _ = command(capsys, model="tf_efficientnet_lite0", images=(photo,), json=True, top_k=1)
    top = json.loads(out)["top"][0]
    assert (code, top["class"], top["name"]) == (0, 317, ImageNetInfo().index_to_label_name(317))
    code, out, _ = command(capsys, model="tf_efficientnet_lite0", images=(photo,), top_k=1)
    assert (code, "leafhopper" in out) == (0, True)
    for name, says in (
        ("resnet50.a1_in2k", r"there is no model or run 'resnet50.a1_in2k'; did you mean resnet50.a1_in1k"),
        ("vit_small_patch14_dinov2.lvd142m", "has no class head, so it decides nothing; name a model with one"),
    ):
        with pytest.raises(ValueError, match=says):
            opened(name)


def test_a_folder_that_is_there_comes_before_timms_model_of_that_name(student, tmp_path, capsys):
    (tmp_path / "student").rename(tmp_path / "resnet18")
    assert own_names(opened("resnet18")) == NAMES


def test_a_student_of_a_thousand_classes_without_names_is_not_given_those_of_imagenet(tmp_path):
    config = ViTConfig(img_size=16, patch_size=8, num_classes=1000, embed_dim=64, depth=1, num_heads=1)
    assert own_names(opened(students.save(config.build(), tmp_path / "student"))) == ()


def test_a_students_folder_tells_the_size_of_views_where_it_is_another(student, tmp_path):
    assert json.loads((student / "config.json").read_text())["view_size"] == [20, 30]
    same = students.save(model_of(CONFIG), tmp_path / "same", view_size=(16, 24))
    assert "view_size" not in json.loads((same / "config.json").read_text())
    assert students.load(student).config == CONFIG


@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_answers_come_in_order_whatever_the_batch_size(student, photos, batch_size):
    exact, parts = answers(student, photos), answers(student, photos, batch_size=batch_size)
    assert [one.image for one in parts] == photos
    for one, other in zip(exact, parts, strict=True):
        assert one.top[0][0] == other.top[0][0]
        assert one.top[0][1] == pytest.approx(other.top[0][1], abs=1e-6)


def test_broken_and_missing_files_are_named_and_the_rest_go_on(student, photos, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    cut = tmp_path / "cut.png"
    cut.write_bytes((tmp_path / "photos" / "00.png").read_bytes()[:200])
    images = (photos[0], "broken.jpg", photos[1], "missing.png", "cut.png", photos[2])
    for as_json in (True, False):
        code, out, err = command(capsys, model=str(student), images=images, json=as_json, batch_size=2)
        assert code == 1
        assert [line.split()[1] for line in err.splitlines()[:3]] == ["broken.jpg", "missing.png", "cut.png"]
        assert all(line.startswith("error: ") for line in err.splitlines()[:3])
        assert err.splitlines()[3] == "3 of 6 images could not be read"
        if as_json:
            assert [json.loads(line)["image"] for line in out.splitlines()] == photos[:3]


def test_files_folders_and_globs_name_images_once_and_in_order(student, photos, tmp_path):
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    (tmp_path / "a[1].png").write_bytes(b"")
    assert image_paths([str(tmp_path / "photos")]) == photos
    deep = [path for path in photos if "deep" in path]
    assert image_paths([photos[-1], "photos/deep/*.png", photos[-1]]) == [
        photos[-1],
        *(os.path.relpath(path, tmp_path) for path in deep),
    ]
    assert len(image_paths(["photos/**/*.png"])) == 12
    assert image_paths(["a[1].png", "missing.png"]) == ["a[1].png", "missing.png"]
    (tmp_path / "empty").mkdir()
    for named, says in (
        (["empty"], "empty holds no images"),
        (["*.gif"], r"\*\.gif matches no image"),
        ([], "no image was"),
    ):
        with pytest.raises(ValueError, match=says):
            image_paths(named)


def test_a_file_whose_name_is_no_text_is_shown_all_the_same(student, photos, tmp_path, capsys):
    odd = os.fsdecode(b"caf\xe9.png")
    os.link(photos[0], odd)
    with open(tmp_path / "out.txt", "w", encoding="utf-8") as strict:  # as a terminal is; a capture takes anything
        code, out, _ = command(capsys, model=str(student), images=(odd,), json=True)
        strict.write(out)
        assert (code, json.loads(out)["image"]) == (0, odd)
        code, out, _ = command(capsys, model=str(student), images=(odd,))
        strict.write(out)
    assert code == 0
    assert out.splitlines()[1].startswith("caf\\udce9.png ")


def test_json_is_one_object_a_line_with_names_and_probabilities(student, photos, capsys):
    code, out, err = command(capsys, model=str(student), images=("photos",), json=True, top_k=99)
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, err, len(lines)) == (0, "", 12)
    for line in lines:
        assert [one["name"] for one in line["top"]] == [NAMES[one["class"]] for one in line["top"]]
        assert sum(one["probability"] for one in line["top"]) == pytest.approx(1, abs=1e-5)
        assert len(line["top"]) == 10


@pytest.mark.parametrize("columns", [60, 120])
def test_the_table_fits_the_window_and_names_are_no_markup(student, photos, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = command(capsys, model=str(student), images=("photos/*.png",), top_k=10)
    assert code == 0
    assert max(map(len, out.splitlines())) <= columns
    assert out.count("[bold]T-shirt[/bold]") == 6
    assert out.splitlines()[0].split() == ["image", "class"]
    assert ("━" in out) == (columns == 120)
    best = answers(student, ["photos/00.png"])[0].top[0]
    assert out.splitlines()[1].split()[:4] == ["photos/00.png", NAMES[best[0]], f"{100 * best[1]:.1f}", "%"]


@pytest.mark.parametrize("columns", [60, 120])
def test_a_path_that_is_too_long_for_its_column_has_a_line_of_its_own(student, photos, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    long = Path("photos").resolve() / ("a-name-of-many-words-" * 5) / "00.png"
    long.parent.mkdir()
    long.symlink_to(photos[0])
    code, out, _ = command(capsys, model=str(student), images=(str(long), "photos/02.png"), top_k=1)
    lines = [line.rstrip() for line in out.splitlines()]
    assert (code, lines[0], lines[2]) == (0, str(long), "photos/02.png")
    assert len(lines) == 4
    for line, path in ((lines[1], long), (lines[3], "photos/02.png")):
        best = answers(student, [str(path)])[0].top[0]
        assert line.split()[:3] == [NAMES[best[0]], f"{100 * best[1]:.1f}", "%"]


@pytest.mark.parametrize("classes", [1, 1200])
def test_students_without_names_of_one_class_and_of_many(tmp_path, photos, capsys, classes):
    config = ViTConfig(img_size=16, patch_size=8, num_classes=classes, embed_dim=16, depth=1, num_heads=2)
    model = model_of(config)
    place = students.save(model, tmp_path / "nameless")
    code, out, _ = command(capsys, model=str(place), images=(photos[0],), json=True)
    top = json.loads(out)["top"]
    assert code == 0
    assert len(top) == min(classes, 5)
    assert {one["name"] for one in top} == {None}
    if classes == 1:
        assert top[0]["probability"] == 1
    _, out, _ = command(capsys, model=str(place), images=(photos[0],))
    assert f"class {top[0]['class']} " in out


def test_what_cannot_answer_is_one_line(tmp_path, student, photos):
    tiny: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    students.save(ViTConfig(**tiny, num_classes=0).build(), tmp_path / "headless")
    students.save(ViTConfig(**tiny, num_classes=2, in_chans=4).build(), tmp_path / "four")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "recipe.json").write_text("{}")
    for place, says in (
        ("headless", "has no class head, so it decides nothing"),
        ("four", "takes 4 channels but images have 1 or 3"),
        ("unfinished", "has no student yet"),
        ("photos", "holds no model"),
        ("absent", "there is no model or run '.*absent'; name a run folder such as runs/quickstart, a timm name"),
        ("headles", "there is no model or run '.*headles'; did you mean .*headless\\?"),
        ("a.torchscript.pt", "a.torchscript.pt is a file of torch's, and loading one can run code"),
        ("headless/model.safetensors", "holds weights alone; name the folder"),
        ("headless/README.md", "there is no model or run"),
    ):
        with pytest.raises(ValueError, match=says):
            opened(tmp_path / place)
    with pytest.raises(ValueError, match="--top-k is 0; use 1 or more"):
        Predict(model=str(student), images=(photos[0],), top_k=0)()
    with pytest.raises(ValueError, match="--batch-size is 0; use 1 or more"):
        Predict(model=str(student), images=(photos[0],), batch_size=0)()


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(student, photos, tmp_path):
    (tmp_path / "many").mkdir()
    for n in range(200):  # 900 bytes of answer each, so that they do not fit a pipe of 64 KiB
        (tmp_path / "many" / f"{n:03}.png").symlink_to(photos[0])
    arguments = ["-m", "distill", "predict", "student", "many", "--json", "--top-k", "10", "--batch-size", "1"]
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        first = started.stdout.readline()
        started.stdout.close()
        assert json.loads(first)["image"] == "many/000.png"
        assert started.stderr.read() == ""
