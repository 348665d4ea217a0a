"""Images without labels: a student learns its teacher's classes, and is validated by agreement, or by labels."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import students
from distill import Arrays, Optim, Recipe, Unlabelled, Views
from distill.console import Console
from distill.evaluate import Score
from distill.losses import CrossEntropy, SoftTargets
from distill.preflight import check
from students.preprocess import Preprocess
from teachers import Teacher, fit_head

REPOSITORY = Path(__file__).parents[1]
NAMES = ("boot", "bag", "sneaker", "shirt", "sandal", "coat", "dress", "pullover", "trouser", "top")  # labels 9 to 0
SMALL = students.ViTConfig(img_size=28, patch_size=7, in_chans=1, embed_dim=16, depth=2, num_heads=2, num_classes=None)


@pytest.fixture(scope="module")
def quickstart() -> dict[str, np.ndarray]:
    with np.load(REPOSITORY / "recipes" / "data" / "fashion_mnist.npz") as file:
        return {name: file[name] for name in file.files if name != "classes"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, quickstart) -> Path:
    """A random ViT with a head fitted on 3,000 images, its classes in the reverse of the data's order."""
    torch.manual_seed(5)
    config = replace(SMALL, embed_dim=24, num_classes=10, global_pool="avg")
    model = config.build()
    with torch.no_grad():
        model.pos_embed.mul_(20)  # so that its random features depend on the place
        x = torch.from_numpy(quickstart["train_images"][-3000:]).unsqueeze(1)
        features = model.outputs(Preprocess(config.img_hw, config.input_mean, config.input_std)(x)).embedding
        assert features is not None
        head = fit_head(features, 9 - torch.from_numpy(quickstart["train_labels"][-3000:]).long(), num_classes=10)
        model.get_parameter("head.weight").copy_(head.weight)
        model.get_parameter("head.bias").copy_(head.bias)
    return students.save(model, tmp_path_factory.mktemp("teacher") / "taught", label_names=NAMES)


@pytest.fixture(scope="module")
def photos(tmp_path_factory, quickstart) -> Path:
    """640 image files in two depths under train, 200 in class folders under val."""
    root = tmp_path_factory.mktemp("photos")
    (root / "train" / "deep").mkdir(parents=True)
    for i, image in enumerate(quickstart["train_images"][:640]):
        Image.fromarray(image).save(root / "train" / ("deep" if i % 2 else "") / f"{i:03}.png")
    for i, image in enumerate(quickstart["val_images"][:200]):
        folder = root / "val" / NAMES[9 - quickstart["val_labels"][i]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:03}.png")
    return root


def make(teacher: Path, **data) -> Recipe:
    return Recipe(
        student=SMALL,
        teacher=Teacher(name=str(teacher), runtime="eager"),
        data=Unlabelled(**data),
        views=Views(crop_pct=1.0),
        losses={"soft": SoftTargets(temperature=1.0)},
        optim=Optim(epochs=2, batch_size=64, warmup_epochs=0),
    )


def test_a_student_learns_from_the_teacher_alone(tmp_path, world, teacher, photos):
    def said_by(*arguments: str) -> str:
        done = world.call(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    options = {
        "data.root": photos / "train", "teacher.name": teacher, "teacher.runtime": "eager", "student.img-size": 28,
        "student.patch-size": 7, "student.in-chans": 1, "student.embed-dim": 32, "student.depth": 2,
        "student.num-heads": 2, "student.drop-path-rate": 0, "views.crop-pct": 1, "views.mixup": 0, "optim.epochs": 8,
        "optim.warmup-epochs": 1, "optim.lr": 5e-3, "optim.batch-size": 32, "workers": 0, "threads": 1,
    }  # fmt: skip
    flat = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    pairs = ["--losses.hint.pairs", "1", "1", "--views.scale", "0.6", "1"]
    said = said_by(str(REPOSITORY / "recipes" / "unlabelled.py"), *flat, *pairs)
    assert "10 classes of the teacher; no labels, so validated by agreement with the teacher" in " ".join(said.split())

    run = tmp_path / "runs" / "unlabelled"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = [line for line in lines if "val/agreement" in line]
    assert len(scores) == 8
    assert not any("val/top1" in line for line in lines)
    report = json.loads((run / "report.json").read_text())["models"][1]
    assert report["top1"] is None
    assert (report["agreement"], report["images"]) == (pytest.approx(scores[-1]["val/agreement"]), 64)
    assert report["kl"] == pytest.approx(scores[-1]["val/kl"], rel=1e-4)

    # By chance a student would decide as the teacher does most often.
    decided = Counter(decisions(teacher, photos))
    assert decided.most_common(1)[0][1] / 64 < 0.35
    assert report["agreement"] > 0.6
    assert report["kl"] < 0.3
    assert scores[0]["val/kl"] > 2 * report["kl"]
    phrase = f"epoch 8 of 8: agrees with the teacher on {100 * report['agreement']:.2f} % ["
    assert phrase in said

    config = json.loads((run / "student" / "config.json").read_text())
    assert config["pretrained_cfg"]["label_names"] == list(NAMES)
    said_by("-m", "distill", "compare", str(run), "--no-cost", "--out", str(tmp_path / "again"))
    again = json.loads((tmp_path / "again" / "report.json").read_text())["models"][1]
    assert again["agreement"] == report["agreement"]


def decisions(teacher: Path, photos: Path) -> list[int]:
    views = [np.asarray(image) for image, _ in map(Unlabelled(root=str(photos / "train")).val().__getitem__, range(64))]
    model = Teacher(name=str(teacher), runtime="eager").build()
    return model(torch.from_numpy(np.stack(views)).unsqueeze(1)).logits.argmax(1).tolist()


def test_labels_of_a_validation_set_are_in_the_teachers_order(teacher, photos, quickstart):
    plan = check(make(teacher, root=str(photos / "train"), val_root=str(photos / "val")))
    assert (plan.labelled, plan.val_labelled, plan.classes) == (False, True, NAMES)
    filled = Unlabelled(root=str(photos / "train"), val_root=str(photos / "val"), label_names=NAMES)
    assert plan.recipe.data == filled  # so that a comparison needs no teacher
    assert plan.recipe.student.num_classes == 10
    labels = np.array([plan.val[i][1] for i in range(200)])
    assert np.bincount(labels, minlength=10).tolist() == np.bincount(9 - quickstart["val_labels"][:200]).tolist()
    images = np.stack([np.asarray(plan.val[i][0]) for i in range(200)])
    right = Teacher(name=str(teacher), runtime="eager").build()(torch.from_numpy(images).unsqueeze(1)).logits.argmax(1)
    assert (right.numpy() == labels).mean() > 0.4  # in the folders' order 10 % would be chance
    assert len(plan.train) == 640


def test_images_are_found_at_any_depth_and_split_once(photos):
    data = Unlabelled(root=str(photos / "train"))
    train, val = data.train(), data.val()
    assert (len(train), len(val), data.classes) == (576, 64, ())
    assert not set(train.paths) & set(val.paths)
    assert {*train.labels, *val.labels} == {-1}
    assert list(Unlabelled(root=str(photos / "train")).val().paths) == list(val.paths)
    assert data.fingerprint() != Unlabelled(root=str(photos / "train"), split_seed=1).fingerprint()
    inside = Unlabelled(root=str(photos), val_root=str(photos / "val"))
    assert len(inside.train()) == 640  # what it is validated on is not trained on
    assert set(Unlabelled(root=str(photos), val_root=str(photos / "train" / "deep")).val().labels) == {-1}


def test_an_archive_with_classes_but_no_training_labels_is_unlabelled(tmp_path, teacher, quickstart):
    images, labels = quickstart["val_images"][:80], quickstart["val_labels"][:80]
    path = tmp_path / "x.npz"
    np.savez(path, train_images=images, val_images=images, val_labels=labels, classes=np.array(list("abcdefghij")))
    plan = check(replace(make(teacher, root="."), data=Arrays(path=str(path))))
    assert (plan.labelled, plan.val_labelled, plan.classes) == (False, True, tuple("abcdefghij"))
    np.savez(path, train_images=images, val_images=images)
    plan = check(replace(make(teacher, root="."), data=Arrays(path=str(path))))
    assert (plan.labelled, plan.val_labelled, plan.classes) == (False, False, NAMES)


def nameless(recipe: Recipe, folder: Path) -> Recipe:
    students.save(replace(recipe.student, num_classes=4).build(), folder)
    return replace(recipe, teacher=Teacher(name=str(folder)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, _: replace(r, losses={"labels": CrossEntropy(), **r.losses}), "loss 'labels' reads labels but"),
        (lambda r, _: r.without_teacher(), "and there is no teacher; give labels, or leave out --alone"),
        (lambda r, _: replace(r, teacher=replace(r.teacher, head="fit")), "head fit needs labelled training images"),
        (
            lambda r, _: replace(r, student=replace(r.student, num_classes=4)),
            "student has 4 classes but the teacher, who alone says what is learnt, has 10; use --student.num-classes",
        ),
        (lambda r, _: replace(r, data=replace(r.data, root="/none")), "there is no folder /none; name a folder"),
        (lambda r, _: replace(r, data=replace(r.data, val_root="/none")), "name a folder of images with --data.val"),
        (lambda r, f: replace(r, data=Unlabelled(root=str(f))), "holds no images; name a folder that has some"),
        (lambda r, _: replace(r, data=replace(r.data, label_names=("a",))), "has 1 names but the teacher has 10"),
        (nameless, "has 10 class folders but the teacher has 4 classes without names; give their names"),
        (
            lambda r, _: replace(r, data=replace(r.data, label_names=tuple("abcdefghij"))),
            "has a class 'bag' that the teacher has not; it has a, b, c, d, e …: rename the folder, or use",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, teacher, photos, change, message):
    recipe = make(teacher, root=str(photos / "train"), val_root=str(photos / "val"))
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        check(change(recipe, tmp_path))
    assert "\n" not in str(refusal.value)


def test_a_score_without_labels_in_a_phrase():
    score = Score(images=64, labelled=0, top1=None, top5=None, nll=None, agreement=0.75, kl=0.1234)
    assert Console().accuracy(score) == "agrees with the teacher on 75.00 % [63.2, 84.0], KL 0.123"
