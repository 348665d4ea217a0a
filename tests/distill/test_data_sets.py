"""torchvision's data sets, those of the hub, and made ones: what is read, split, refused."""

import gzip
import pickle
import socket
import struct
import threading

import numpy as np
import pytest
from PIL import Image

from distill import HuggingFace, Synthetic, Torchvision
from distill.data import BadImages
from distill.data.bad import MOST_IN_A_ROW, bad_image, readable


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize(("folder", "suffix"), [("FashionMNIST/raw", ""), ("FashionMNIST/raw", ".gz"), ("", ".gz")])
def test_fashion_mnist_is_read_from_its_files_plain_or_compressed(tmp_path, folder, suffix):
    rng = np.random.default_rng(0)
    parts = {
        name: (rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n, np.uint8))
        for name, n in (("train", 7), ("t10k", 3))
    }
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name, (images, labels) in parts.items():
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = idx(array)
            (tmp_path / folder / f"{name}-{kind}-ubyte{suffix}").write_bytes(gzip.compress(data) if suffix else data)
    data = Torchvision(name="FashionMNIST", root=str(tmp_path))
    assert data.classes[:2] == ("T-shirt/top", "Trouser")
    for images, name in ((data.train(), "train"), (data.val(), "t10k")):
        assert len(images) == len(parts[name][0])
        for i in range(len(images)):
            assert np.array_equal(np.asarray(images[i][0]), parts[name][0][i])
            assert images[i][1] == parts[name][1][i]
    before = data.fingerprint()
    path = tmp_path / folder / f"t10k-labels-idx1-ubyte{suffix}"
    path.write_bytes(path.read_bytes()[:-1])
    assert data.fingerprint() != before
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\S* (is no idx file|should hold 3 bytes and has 2)"):
        data.val()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CIFAR100", r"CIFAR100 is missing or damaged in .*; put cifar-100-python there, or name another folder with"),
        ("FashionMNIST", r"FashionMNIST is missing .* or fetch it with --data\.download"),
        ("Food101", r"put food-101 there"),
        ("Flowers102", r"put flowers-102 there"),
        ("OxfordIIITPet", r"put oxford-iiit-pet there"),
        ("SVHN", r"SVHN is (missing|read with scipy)"),
        ("STL10", r"put stl10_binary there"),
        ("ImageNet", r"ImageNet is missing .* or take it from image-net\.org"),
    ],
)
def test_what_is_missing_is_said_with_the_place_for_it(tmp_path, name, message):
    with pytest.raises(ValueError, match=message) as refusal:
        Torchvision(name=name, root=str(tmp_path)).train()
    assert "\n" not in str(refusal.value)


def test_a_pickle_that_is_not_cifars_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (type(tmp_path).touch, (tmp_path / "ran",))

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Bomb()))
    data = Torchvision(name="CIFAR10", root=str(tmp_path))
    for ask in (data.train, data.val, lambda: data.classes):
        with pytest.raises(ValueError, match="CIFAR10 is missing or damaged"):
            ask()
    assert not (tmp_path / "ran").exists()


def test_a_set_without_a_split_gets_a_stratified_one(tmp_path):
    for label, name in enumerate(("AnnualCrop", "Forest")):
        folder = tmp_path / "eurosat" / "2750" / name
        folder.mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (8, 8), (100 * label + i,) * 3).save(folder / f"{i}.png")
    data = Torchvision(name="EuroSAT", root=str(tmp_path), val_fraction=0.2)
    train, val = greys(data.train()), greys(data.val())
    assert data.classes == ("AnnualCrop", "Forest")
    assert (len(train), len(val), len({*train, *val})) == (16, 4, 20)
    assert sorted(val.values()) == [0, 0, 1, 1]
    assert all(label == (grey >= 100) for grey, label in (train | val).items())
    broken = tmp_path / "eurosat" / "2750" / "Forest" / "3.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"Forest/3\.png cannot be read as an image"):
        greys([*map(data.train().__getitem__, range(16)), *map(data.val().__getitem__, range(4))])


def greys(images) -> dict[int, int]:
    """The red of the first pixel, and the label, of each image."""
    return {int(np.asarray(image).flat[0]): label for image, label in map(images.__getitem__, range(len(images)))}


def saved(path, splits: dict[str, list[int]], names=("cat", "dog", "fox"), kind: str = "names") -> HuggingFace:
    import datasets

    kinds = {"names": datasets.ClassLabel(names=list(names)), "words": datasets.Value("string")}
    feature = kinds.get(kind, datasets.Value("int64"))
    features = datasets.Features({"id": datasets.Value("int64"), "picture": datasets.Image(), "label": feature})
    made = {}
    for split, labels in splits.items():
        rows = {"id": list(range(len(labels))), "picture": [Image.new("L", (4, 4), i) for i in range(len(labels))]}
        rows["label"] = [names[label] for label in labels] if kind == "words" else labels
        made[split] = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(made).save_to_disk(str(path))
    return HuggingFace(name=str(path))


@pytest.mark.parametrize("kind", ["names", "words", "numbers"])
def test_a_saved_hugging_face_folder(tmp_path, kind):
    data = saved(tmp_path / "set", {"train": [2, 0, 1, 1], "test": [1, 0]}, kind=kind)
    assert data.classes == (("0", "1", "2") if kind == "numbers" else ("cat", "dog", "fox"))
    train, val = data.train(), data.val()
    assert [(train[i][0].getpixel((0, 0)), train[i][1]) for i in range(4)] == [(0, 2), (1, 0), (2, 1), (3, 1)]
    assert [val[i][1] for i in range(2)] == [1, 0]
    assert data.notes(train, val) == ("validation images from the split test",)
    other = saved(tmp_path / "other", {"train": [2, 0, 1, 0], "test": [1, 0]}, kind=kind)
    assert data.fingerprint() == HuggingFace(name=data.name).fingerprint() != other.fingerprint()


def test_a_hugging_face_set_without_validation_is_split(tmp_path):
    data = saved(tmp_path / "set", {"train": [0] * 20 + [1] * 10 + [2] * 10})
    train, val = data.train(), data.val()
    assert np.bincount(val.labels).tolist() == [2, 1, 1]
    assert sorted([*greys(train), *greys(val)]) == list(range(40))
    assert HuggingFace(name=data.name, label_column="", val_split="train").classes == ()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"train_split": "none"}, "has the splits train, test but no none"),
        ({"image_column": "image"}, "there is no column image for the images of"),
        (
            {"label_column": "class"},
            r"there is no column class .* use --data\.label-column with one of id, picture, label",
        ),
        ({"name": "/none/at/all"}, "datasets cannot load /none/at/all"),
    ],
)
def test_what_a_hugging_face_set_has_not_is_said(tmp_path, more, message):
    data = saved(tmp_path / "set", {"train": [0, 1], "test": [1, 0]})
    with pytest.raises(ValueError, match=message) as refusal:
        HuggingFace(**{"name": data.name, **more}).train()
    assert "\n" not in str(refusal.value)


def test_synthetic_images_are_a_function_of_seed_split_and_index():
    data = Synthetic(images=20, val_images=8, num_classes=4, img_size=16)
    train, val = data.train(), data.val()
    assert (len(train), len(val), data.classes) == (20, 8, ("class_0", "class_1", "class_2", "class_3"))
    assert [train[i][1] for i in range(6)] == [0, 1, 2, 3, 0, 1]
    again = Synthetic(images=20, num_classes=4, img_size=16).train()
    assert train[3][0].tobytes() == again[3][0].tobytes()
    for other in (train[7][0], val[3][0], Synthetic(images=20, num_classes=4, img_size=16, seed=1).train()[3][0]):
        assert train[3][0].tobytes() != other.tobytes()
    assert np.asarray(Synthetic(in_chans=1, img_size=16).val()[0][0]).shape == (16, 16)
    with pytest.raises(IndexError):
        train[20]
    with pytest.raises(ValueError, match=r"data\.num_classes is 0; use --data\.num-classes 1 or more"):
        Synthetic(num_classes=0).train()


def test_a_hub_that_does_not_answer_is_asked_once_and_the_way_out_is_a_folder(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    pytest.importorskip("datasets")
    asked: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                asked.append(1)
                connection.close()

        threading.Thread(target=refuse, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        with pytest.raises(
            ValueError, match=r"the hub does not answer and some/set is not in its cache .* --data\.name"
        ):
            HuggingFace(name="some/set").train()
    assert len(asked) == 1
    assert constants.HF_HUB_OFFLINE is False


def test_synthetic_classes_can_be_told_apart():
    data = Synthetic(images=400, val_images=100, num_classes=5, img_size=16, in_chans=1)
    train, val = (
        np.stack([np.asarray(images[i][0]).ravel() for i in range(len(images))]).astype(float)
        for images in (data.train(), data.val())
    )
    nearest = ((val[:, None] - train[None]) ** 2).sum(-1).argmin(1) % 5
    assert (nearest == np.arange(100) % 5).mean() > 0.8  # 0.2 by chance


def test_the_next_image_that_can_be_read_stands_for_a_bad_one():
    def read(index: int) -> int:
        if index in (2, 3, 5):
            raise bad_image(f"{index}.png", "cut")
        return index

    bad = BadImages()
    assert [readable(i, 6, read, bad) for i in range(6)] == [0, 1, 4, 4, 4, 0]
    assert bad.untold() == tuple(f"{i}.png cannot be read as an image (cut)" for i in (2, 3, 5))
    assert [readable(i, 6, read, bad) for i in range(6)] == [0, 1, 4, 4, 4, 0]
    assert (bad.untold(), len(bad.lines)) == ((), 3)
    asked = []

    def never(index: int) -> int:
        asked.append(index)
        raise bad_image(f"{index}.png", "cut")

    with pytest.raises(ValueError, match=r"^7\.png cannot .* neither can those that follow"):
        readable(7, 10**6, never, bad)
    assert len(asked) == MOST_IN_A_ROW


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1.0, 1.5], "the column label of .* holds floats; use --data.label-column with one of whole"),
        ([[0], [1], [0]], "the column label of .* holds lists; use"),
        ([0, None, 1], r"1 of 3 rows of the split train of .* have no label; give them one, leave them out"),
    ],
)
def test_labels_of_a_hugging_face_set_are_whole_numbers_or_names_of_every_row(tmp_path, labels, message):
    import datasets

    pictures = [Image.new("L", (4, 4), i) for i in range(3)]
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "label": {
                float: datasets.Value("float32"),
                list: datasets.List(datasets.Value("int64")),
                int: datasets.Value("int64"),
            }[type(labels[0])],
        }
    )
    made = datasets.Dataset.from_dict({"picture": pictures, "label": labels}, features=features)
    datasets.DatasetDict({"train": made}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(ValueError, match=message):
        HuggingFace(name=str(tmp_path / "set")).train()
