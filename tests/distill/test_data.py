"""Data sets: what is read, how a split is made, and what is refused."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import Subset

from distill import Arrays, Folder, Optim, Recipe, Views
from distill.compare.seen import seen
from distill.compare.terms import Terms
from distill.data import BadImages, Images, Paths, image_files
from distill.folder import REPORTS, begin, claim
from distill.loader import Layout, in_order, train_batches
from distill.passed_over import list_bad
from distill.views import train_transform, val_transform
from students import VIT_TINY


def make_folder(root: Path, per_class: dict[str, int], size=(8, 6)) -> Path:
    rng = np.random.default_rng(0)
    for name, count in per_class.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


def test_folder_split_is_stratified_seeded_and_complete(tmp_path):
    root = make_folder(tmp_path, {"cat": 20, "dog": 10, "fox": 2})
    data = Folder(root=str(root), val_fraction=0.2)
    assert data.classes == ("cat", "dog", "fox")
    train, val = data.train(), data.val()
    assert np.bincount(val.labels).tolist() == [4, 2, 1]  # a fifth, and at least one
    assert np.bincount(train.labels).tolist() == [16, 8, 1]
    assert not set(train.paths) & set(val.paths)
    assert [str(root / val.file(index)) for index in range(len(val))] == list(val.paths)
    assert list(Folder(root=str(root), val_fraction=0.2).val().paths) == list(val.paths)
    assert list(Folder(root=str(root), val_fraction=0.2, split_seed=1).val().paths) != list(val.paths)


def test_folder_uses_its_own_split_and_the_training_classes(tmp_path):
    make_folder(tmp_path / "train", {"a": 3, "b": 2})
    make_folder(tmp_path / "val", {"b": 4})
    data = Folder(root=str(tmp_path))
    assert data.train().labels.tolist() == [0, 0, 0, 1, 1]
    assert data.val().labels.tolist() == [1, 1, 1, 1]
    assert (data.train().file(3), data.val().file(0)) == ("train/b/0.png", "val/b/0.png")
    make_folder(tmp_path / "val", {"c": 1})
    with pytest.raises(ValueError, match="has a class 'c' that"):
        data.val()


def test_folder_turns_an_image_as_its_camera_says(tmp_path):
    make_folder(tmp_path, {"a": 2})
    exif = Image.Exif()
    exif[274] = 6  # orientation: the top is at the right
    pixels = np.zeros((4, 2), dtype=np.uint8)
    pixels[:, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "a" / "turned.png", exif=exif)
    images = Folder(root=str(tmp_path))._index(tmp_path, ("a", "b"))
    turned, _ = images[[str(path).endswith("turned.png") for path in images.paths].index(True)]
    assert np.asarray(turned).tolist() == [[255] * 4, [0] * 4]


def test_a_fingerprint_follows_the_files(tmp_path):
    data = Folder(root=str(make_folder(tmp_path, {"a": 4, "b": 4})))
    before = data.fingerprint()
    assert data.fingerprint() == before
    Image.new("RGB", (9, 9)).save(tmp_path / "a" / "new.png")
    assert data.fingerprint() != before


def save(path, **arrays):
    np.savez(path, **arrays)
    return Arrays(path=str(path))


def test_arrays_give_images_labels_and_classes(tmp_path):
    images = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    data = save(tmp_path / "x.npz", train_images=images, train_labels=[1, 0], val_images=images, classes=["p", "q"])
    assert data.classes == ("p", "q")
    image, label = data.train()[0]
    assert np.asarray(image).tolist() == images[0].tolist()
    assert label == 1
    assert data.val()[0][1] == -1  # no labels


GOOD = np.zeros((2, 3, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"val_images": GOOD}, "holds val_images but no train_images"),
        ({"train_images": GOOD.astype(float)}, r"are float64 \[2, 3, 3\]; use uint8"),
        ({"train_images": GOOD, "train_labels": [0]}, "has 2 train images and 1 labels"),
        ({"train_images": GOOD, "train_labels": [0, 3], "classes": ["a"]}, "a train label 3 but 1 classes"),
        ({"train_images": GOOD[:0]}, "has 0 train images"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "x.npz", **arrays).train()


def test_what_is_not_there_or_not_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        Arrays(path=str(tmp_path / "none.npz")).train()
    (tmp_path / "x.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"is no \.npz file of plain arrays"):
        Arrays(path=str(tmp_path / "x.npz")).train()
    with pytest.raises(ValueError, match="there is no folder"):
        Folder(root=str(tmp_path / "none")).train()
    for name, advice in (
        ("x.npz", r"data=Arrays\(path="),
        ("x.tar", r"Shards\(urls="),
        ("x.jpg", "the folder around it"),
    ):
        (tmp_path / name).touch()
        with pytest.raises(
            ValueError, match=rf"{name} is a file and --data\.root names a folder of images; .*{advice}"
        ):
            Folder(root=str(tmp_path / name)).train()
    with pytest.raises(ValueError, match="holds no class folders with images"):
        Folder(root=str(tmp_path)).train()
    make_folder(tmp_path / "few", {"a": 1, "b": 3})
    with pytest.raises(ValueError, match=r"class .a. in .* has 1 images; a split needs 2"):
        Folder(root=str(tmp_path / "few")).train()


def test_pickled_arrays_are_refused_and_their_code_does_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    np.savez(tmp_path / "x.npz", train_images=np.array([Bomb()], dtype=object))
    with pytest.raises(ValueError, match="holds pickled objects"):
        Arrays(path=str(tmp_path / "x.npz")).train()
    assert not (tmp_path / "ran").exists()


def test_a_broken_image_is_named(tmp_path):
    make_folder(tmp_path, {"a": 2, "b": 2})
    broken = tmp_path / "a" / "0.png"
    broken.write_bytes(broken.read_bytes()[:40])
    images = Folder(root=str(tmp_path))._index(tmp_path, ("a", "b"))
    with pytest.raises(ValueError, match=r"a/0\.png cannot be read as an image"):
        images[0]


def test_bad_images_are_passed_over_alike_by_any_number_of_loaders(tmp_path):
    make_folder(tmp_path, {"a": 6, "b": 6})
    for name in ("a/1", "a/5", "b/2"):
        (tmp_path / f"{name}.png").write_bytes(b"no image")
    transform = train_transform(Views(), (8, 8), 3, (0.5,) * 3, (0.5,) * 3)

    def seen(workers: int) -> tuple[list, list[str]]:
        images = Folder(root=str(tmp_path), on_bad="skip")._index(tmp_path, ("a", "b"))
        part = cast(Images, Subset(cast(Any, images), range(12)))  # as a head is fitted on
        layout = Layout(images=12, batch_size=4, epochs=2)
        batches = list(train_batches(part, transform, layout, seed=0, process=0, start_step=0, workers=workers))
        return [(b.views.tolist(), cast(Any, b.labels).tolist()) for b in batches], sorted(images.bad.lines)

    batches, bad = seen(0)
    assert [line.split(" cannot ")[0] for line in bad] == [str(tmp_path / f"{n}.png") for n in ("a/1", "a/5", "b/2")]
    # The label is that of the image that is shown: a/5 is replaced by b/0.
    assert np.bincount([label for _, labels in batches for label in labels]).tolist() == [2 * 5, 2 * 7]
    assert seen(2) == (batches, bad)


def test_bad_images_are_listed_in_the_run_folder(tmp_path):
    recipe = SimpleNamespace(data=SimpleNamespace(on_bad="skip"))
    train, val = SimpleNamespace(bad=BadImages()), SimpleNamespace(bad=BadImages())
    plan = cast(Any, SimpleNamespace(recipe=recipe, train=train, val=val))
    accelerator = Accelerator(cpu=True)
    assert list_bad(plan, accelerator, tmp_path) == 0
    assert not (tmp_path / "bad_images.txt").exists()
    (tmp_path / "bad_images.txt").write_text("a before the resume\n")
    train.bad.add(["c", "b"])
    val.bad.add(["c"])
    assert list_bad(plan, accelerator, tmp_path) == 3
    assert (tmp_path / "bad_images.txt").read_text() == "a before the resume\nb\nc\n"


def test_links_in_circles_end_and_bring_in_no_other_class(tmp_path):
    make_folder(tmp_path, {"a": 2, "b": 2, "a/deep": 1})
    for link, target in (
        ("a/up", tmp_path),
        ("a/here", tmp_path / "a"),
        ("a/deep/b", tmp_path / "b"),
        ("b/a", tmp_path / "a"),
    ):
        (tmp_path / link).symlink_to(target)
    os.mkfifo(tmp_path / "a" / "pipe.png")  # which would be waited for
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    images = Folder(root=str(tmp_path))._index(tmp_path, ("a", "b"))
    names = [os.path.relpath(path, tmp_path) for path in images.paths]
    # b is entered from a because a link says so, and the other way round, but each folder once.
    own = ["a/0.png", "a/1.png", "a/deep/0.png", "a/deep/b/0.png", "a/deep/b/1.png", "a/gone.png"]
    other = ["b/0.png", "b/1.png", "b/a/0.png", "b/a/1.png", "b/a/deep/0.png", "b/a/gone.png"]
    assert names == own + other
    with pytest.raises(ValueError, match=r"a/gone\.png cannot be opened"):
        images[5]


def test_paths_are_in_the_order_of_their_text(tmp_path):
    names = [
        "b.png",
        "a/z.png",
        "a-x.png",
        "a.png",
        "a/b/c.jpg",
        "é.png",
        "Z.PNG",
        "a/.hidden.png",
        ".git/x.png",
        "x.txt",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    paths, counts = image_files(tmp_path)
    expected = sorted(str(tmp_path / name) for name in names if "/." not in f"/{name}" and not name.endswith("txt"))
    assert (list(paths), counts) == (expected, [7])
    assert [paths[np.array([5, 0])][i] for i in range(2)] == [expected[5], expected[0]]
    assert list(Paths.of(expected)) == expected


def test_a_class_called_train_is_a_class(tmp_path):
    make_folder(tmp_path, {"bus": 2, "train": 2})
    assert Folder(root=str(tmp_path)).classes == ("bus", "train")


def test_notes_say_how_images_were_split_and_what_is_left_out(tmp_path):
    make_folder(tmp_path / "train", {"a": 3, "b": 2})
    make_folder(tmp_path / "val", {"b": 4})
    make_folder(tmp_path / "test", {"b": 4})
    Image.new("L", (4, 4)).save(tmp_path / "train" / "stray.png")
    data = Folder(root=str(tmp_path))
    assert data.notes(data.train(), data.val()) == (
        "validation images from val/",
        "test/ is not used",
        "2 to 3 training images a class",
        "no validation images of 1 of 2 classes: a",
        "1 images in train/ lie in no class folder and are not used",
    )
    split = Folder(root=str(tmp_path / "train"))
    assert split.notes(split.train(), split.val())[0].startswith("10 % of each class set apart for validation")


def test_a_class_name_that_cannot_be_shown_is_refused(tmp_path):
    make_folder(tmp_path, {"a": 2, "b\n\x1b[31m": 2})
    with pytest.raises(ValueError, match=r"has a folder 'b\\n\\x1b\[31m' whose name cannot be shown"):
        _ = Folder(root=str(tmp_path)).classes


@pytest.mark.parametrize(
    ("images", "epochs"), [(1, 300), (10_000, 300), (20_000, 150), (30_000, 100), (1_281_167, 100)]
)
def test_epochs_follow_the_number_of_images_where_they_are_left_to_it(images, epochs):
    assert Optim(epochs=None).for_images(images).epochs == epochs
    assert Optim(epochs=7).for_images(images).epochs == 7


def test_a_run_that_a_bad_image_ended_goes_on_with_skip_and_with_nothing_else_changed(tmp_path):
    data = Folder(root=str(tmp_path))
    recipe = Recipe(student=VIT_TINY, data=data)
    (tmp_path / "run").mkdir()
    begin(tmp_path / "run", recipe)
    assert claim(tmp_path / "run", replace(recipe, data=replace(data, on_bad="skip")), "auto") == "resume"
    with pytest.raises(ValueError, match=r"of another recipe \(data\.split_seed: 0 -> 1\)"):
        claim(tmp_path / "run", replace(recipe, data=replace(data, on_bad="skip", split_seed=1)), "auto")


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        (np.zeros((4, 1), dtype=np.int64), r"int64 \[4, 1\], the least 0"),
        (np.array([0.0, 0.5, 1.0, 1.0]), r"float64 \[4\]"),
        (np.array([0, 1, -2, 1]), r"int64 \[4\], the least -2"),
        (np.array(["a", "b", "a", "b"]), r"<U1 \[4\]"),
    ],
)
def test_labels_of_an_archive_are_whole_numbers_one_an_image(tmp_path, labels, what):
    images = np.zeros((4, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=labels, classes=np.array(["a", "b"]))
    with pytest.raises(ValueError, match=rf"train_labels in .*x\.npz are {what}; use integers \[N\] from 0 on"):
        Arrays(path=str(tmp_path / "x.npz")).train()


def test_labels_of_ones_own_set_may_be_of_any_integer_kind():
    images: Any = [(Image.new("L", (8, 8)), np.uint8(n)) for n in range(3)]
    transform = val_transform(Views(), (8, 8), 1)
    (batch,) = in_order(images, transform, batch_size=4, workers=0)
    (shown,) = seen(images, [Terms((8, 8), 1)], indices=range(3))
    for labels in (batch.labels, shown.labels):
        assert labels is not None
        assert (labels.dtype, labels.tolist()) == (torch.long, [0, 1, 2])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["Train", "Val"], "the classes in .* would be Train, Val, which are names of splits; call them train and val"),
        (["photos"], "has the one class 'photos'; name the folder whose folders are the classes"),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path, classes, message):
    make_folder(tmp_path, dict.fromkeys(classes, 3))
    with pytest.raises(ValueError, match=message):
        Folder(root=str(tmp_path)).train()


def test_a_finished_run_that_lost_a_file_goes_on_to_make_it_again(tmp_path):
    recipe = Recipe(student=VIT_TINY, teacher=None, data=Folder(root="x"), losses={}, optim=Optim(epochs=1))
    begin(tmp_path, recipe)
    (tmp_path / "student").mkdir()
    files = [*REPORTS, "student/config.json", "student/model.safetensors"]
    for name in files:
        (tmp_path / name).touch()
    assert claim(tmp_path, recipe, "auto") == "finished"
    for name in files:
        (tmp_path / name).unlink()
        assert claim(tmp_path, recipe, "auto") == "resume"
        (tmp_path / name).touch()
