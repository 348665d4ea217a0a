"""Data sets: what is read, how a split is made, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill import Arrays, Folder


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
    assert list(Folder(root=str(root), val_fraction=0.2).val().paths) == list(val.paths)
    assert list(Folder(root=str(root), val_fraction=0.2, split_seed=1).val().paths) != list(val.paths)


def test_folder_uses_its_own_split_and_the_training_classes(tmp_path):
    make_folder(tmp_path / "train", {"a": 3, "b": 2})
    make_folder(tmp_path / "val", {"b": 4})
    data = Folder(root=str(tmp_path))
    assert data.train().labels.tolist() == [0, 0, 0, 1, 1]
    assert data.val().labels.tolist() == [1, 1, 1, 1]
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
