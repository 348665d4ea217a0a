"""Shards: the samples that webdataset reads, by shard and position, from a disk and from a store."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import webdataset
from PIL import Image

from distill.data import Shards
from distill.data.shard_files import ShardCache, look
from distill.data.shard_order import GroupedOrder
from distill.loader import Layout, order_of, train_batches
from distill.views import Views, train_transform

SIZES = (5, 3, 4, 6)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), value).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def shards(tmp_path) -> Path:
    """Four shards of 5, 3, 4 and 6 samples; the image of number n is grey n and its class n mod 3."""
    number = 0
    for shard, size in enumerate(SIZES):
        with webdataset.TarWriter(str(tmp_path / f"train-{shard}.tar")) as sink:  # pyright: ignore
            for _ in range(size):
                sink.write(
                    {"__key__": f"deep/dir.x/n{number:03}", "png": png(number), "cls": number % 3, "json": {"a": 1}}
                )
                number += 1
    return tmp_path


def make(root: Path, **more) -> Shards:
    urls = (f"{root}/train-{{0..3}}.tar",)
    return Shards(**{"train_urls": urls, "val_urls": (f"{root}/train-0.tar",), **more})


def values(images) -> list[tuple[int, int]]:
    return [(image.getpixel((0, 0)), label) for image, label in map(images.__getitem__, range(len(images)))]


def test_the_samples_are_those_that_webdataset_reads(shards):
    data = make(shards)
    assert data.classes == ("0", "1", "2")
    assert values(data.train()) == [(n, n % 3) for n in range(18)]
    theirs = webdataset.WebDataset(data.train_urls[0], shardshuffle=False).decode("pil").to_tuple("png", "cls")  # pyright: ignore
    assert values(data.train()) == [(image.convert("L").getpixel((0, 0)), label) for image, label in theirs]
    assert values(data.val()) == [(n, n % 3) for n in range(5)]
    assert data.notes(data.train(), data.val()) == ("4 shards to train on, 1 to validate on",)


def test_shards_can_be_sent_to_a_loader_that_was_not_forked(shards):
    images = make(shards).train()
    assert values(pickle.loads(pickle.dumps(images))) == values(images)


def test_an_index_is_made_once_and_again_when_the_shard_changes(shards, monkeypatch):
    data = make(shards)
    before = data.fingerprint()
    kept = sorted((shards / "cache" / "shards").glob("*.npz"))
    assert len(kept) == 4
    times = [file.stat().st_mtime_ns for file in kept]
    assert data.fingerprint() == before
    assert [file.stat().st_mtime_ns for file in kept] == times
    kept[0].write_bytes(b"torn")
    assert values(data.train()) == [(n, n % 3) for n in range(18)]
    os.replace(shards / "train-3.tar", shards / "train-1.tar")
    os.link(shards / "train-1.tar", shards / "train-3.tar")
    assert values(data.train())[5:11] == [(n, n % 3) for n in range(12, 18)]
    assert data.fingerprint() != before


def test_the_order_shuffles_shards_and_then_inside_groups(shards):
    images = make(shards, group_shards=2).train()
    whole = order_of(images, 7, 0)[0:18]
    assert sorted(whole.tolist()) == list(range(18))
    shard_of = np.repeat(np.arange(4), SIZES)
    cut = next(c for c in range(1, 18) if not set(shard_of[whole[:c]]) & set(shard_of[whole[c:]]))
    assert [len(set(shard_of[part].tolist())) for part in (whole[:cut], whole[cut:])] == [2, 2]
    assert np.concatenate([order_of(images, 7, 0)[a : a + 4] for a in range(0, 18, 4)]).tolist() == whole.tolist()
    assert order_of(images, 7, 1)[0:18].tolist() != whole.tolist()
    assert order_of(images, 8, 0)[0:18].tolist() != whole.tolist()


def test_an_order_of_a_billion_samples_holds_one_group(shards):
    order = GroupedOrder(np.full(100_000, 10_000), 4, seed=3)
    part = order[123_456_000:123_456_256]
    assert (len(order), len(set(part.tolist()))) == (10**9, 256)
    assert len(set((part // 10_000).tolist())) == 4
    across = order[39_990:40_010]  # the border of two groups
    assert len(set((across // 10_000).tolist())) > 4


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_for_any_number_of_workers_and_processes(shards, workers):
    images, views = make(shards).train(), Views(scale=(1.0, 1.0), hflip=0)
    transform = train_transform(views, (8, 8), 1, (0.5,), (0.5,))

    def seen(process: int, processes: int, workers: int, start: int = 0) -> list[list[int]]:
        layout = Layout(images=18, batch_size=4, epochs=2, processes=processes)
        parts = train_batches(images, transform, layout, seed=1, process=process, start_step=start, workers=workers)
        return [part.views[:, 0, 0, 0].tolist() for part in parts]

    one = seen(0, 1, 0)
    assert seen(0, 1, workers) == one
    assert [a + b for a, b in zip(seen(0, 2, workers), seen(1, 2, workers), strict=True)] == one
    assert seen(0, 1, workers, start=5) == one[5:]


def test_shards_of_a_store_are_fetched_whole_into_a_bounded_cache(shards):
    store = fsspec.filesystem("memory")
    for shard in range(4):
        store.pipe(f"/bucket/train-{shard}.tar", (shards / f"train-{shard}.tar").read_bytes())
    size = (shards / "train-3.tar").stat().st_size
    urls, copies = ("memory://bucket/train-{0..3}.tar",), shards / "copies"
    data = Shards(train_urls=urls, val_urls=urls, cache=str(copies), cache_gib=2.5 * size / 2**30, group_shards=1)
    images = data.train()
    assert values(images) == [(n, n % 3) for n in range(18)]
    for n in (17, 0, 8, 17, 5):
        assert images[n][1] == n % 3
        assert sum(file.stat().st_size for file in copies.glob("*.tar")) <= 2.5 * size
    assert not list(copies.glob("*.partial"))
    store.rm("/bucket/train-3.tar")
    assert 0 < len(list(copies.glob("*.tar"))) < 4
    with pytest.raises(ValueError, match=r"the shard memory://bucket/train-3\.tar cannot be reached"):
        data.train()
    with pytest.raises(
        ValueError, match=r"two groups of 2 shards have 0\.0 GiB and the cache holds .* --data.cache-gib"
    ):
        Shards(train_urls=("memory://bucket/train-{0..2}.tar",), val_urls=urls, cache_gib=1e-9, group_shards=2).train()


def test_the_copy_not_read_for_longest_makes_room(tmp_path):
    store = fsspec.filesystem("memory")
    for name in "abc":
        store.pipe(f"/lru/{name}.tar", name.encode() * 100)
    a, b, c = look([f"memory://lru/{name}.tar" for name in "abc"])
    cache = ShardCache(tmp_path / "copies", 250)
    cache.local(a)
    cache.local(b)
    for age, shard in enumerate((b, a)):  # b was read before a
        os.utime(cache.folder / f"{shard.key}.tar", (1000 + age, 1000 + age))
    assert cache.local(c).read_bytes() == b"c" * 100
    assert {file.stem for file in cache.folder.glob("*.tar")} == {a.key, c.key}


def test_a_bad_image_is_named_by_shard_and_member_or_passed_over(shards):
    path = shards / "train-1.tar"
    whole = path.read_bytes()
    offset = whole.index(png(6))
    path.write_bytes(whole[:offset] + b"x" * len(png(6)) + whole[offset + len(png(6)) :])
    with pytest.raises(ValueError, match=r"train-1\.tar: deep/dir\.x/n006\.png cannot be read as an image"):
        make(shards).train()[6]
    images = make(shards, on_bad="skip").train()
    assert values(images) == [(7 if n == 6 else n, (7 if n == 6 else n) % 3) for n in range(18)]
    assert [line.partition(" cannot")[0] for line in images.bad.lines] == [f"{path}: deep/dir.x/n006.png"]


def tar(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("members", "more", "message"),
    [
        ([("a.txt", b"1"), ("a.cls", b"0")], {}, r"sample a of .* has txt, cls but no image"),
        ([("a.png", png(1))], {}, r"sample a of .* has png but no label \(cls\)"),
        ([("a.png", png(1)), ("a.cls", b"cat")], {}, r"has the label 'cat', a name; name the classes with"),
        ([("a.png", png(1)), ("a.cls", b"7")], {"num_classes": 5}, r"the label '7' which is none of 5 classes"),
        ([("a.png", png(1)), ("a.cls", b"-1")], {"num_classes": 5}, r"the label '-1' which is none of 5 classes"),
        ([], {}, "holds no samples"),
    ],
)
def test_shards_that_do_not_fit_are_refused(tmp_path, members, more, message):
    url = str(tar(tmp_path / "x.tar", *members))
    with pytest.raises(ValueError, match=message) as refusal:
        Shards(train_urls=(url,), val_urls=(url,), **more).train()
    assert "\n" not in str(refusal.value)


def test_files_that_are_no_shards_are_refused(tmp_path, shards):
    def refused(url: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Shards(train_urls=(url,), val_urls=(url,)).train()

    refused(str(tmp_path / "none.tar"), r"none\.tar cannot be read \(No such file")
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b" + bytes(600))
    refused(str(tmp_path / "x.tar.gz"), r"x\.tar\.gz is no plain tar file")
    cut = tmp_path / "cut.tar"
    cut.write_bytes((shards / "train-0.tar").read_bytes()[:1600])
    refused(str(cut), r"cut\.tar (ends in the middle|is no plain tar)")
    refused(f"pipe:touch {tmp_path}/ran", "would run a command")
    assert not (tmp_path / "ran").exists()
    refused("nosuch://x/y.tar", "names no store that fsspec knows")
    with pytest.raises(ValueError, match="no shards were named; use --data"):
        Shards(train_urls=(), val_urls=()).train()


def test_names_of_classes_and_members_are_words_and_never_paths(tmp_path):
    evil = "../../evil"
    url = str(
        tar(
            tmp_path / "x.tar",
            (f"{evil}/../a.png", png(1)),
            (f"{evil}/../a.cls", evil.encode()),
            ("/etc/b.png", png(2)),
            ("/etc/b.cls", b"0"),
        )
    )
    (tmp_path / "classes.txt").write_text(f"good\n{evil}\n")
    before = {path for path in tmp_path.parent.rglob("*") if "cache" not in path.parts}
    data = Shards(train_urls=(url,), val_urls=(url,), classes_file=str(tmp_path / "classes.txt"))
    assert data.classes == ("good", evil)
    assert values(data.train()) == [(1, 1), (2, 0)]
    assert {path for path in tmp_path.parent.rglob("*") if "cache" not in path.parts} == before


def test_shards_without_labels(shards):
    data = make(shards, label_key=None)
    assert data.classes == ()
    assert {label for _, label in values(data.train())} == {-1}


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (("cat", "dog", "fox"), ("fox", "1", "0"), [2, 1, 0]),
        (("0", "1", "10", "2"), ("10", "2", "0"), [2, 3, 0]),
        (("1", "2", "3"), ("0", "1", "2"), None),
    ],
)
def test_labels_are_names_and_numbers_only_where_names_are_none(tmp_path, names, labels, expected):
    members = [
        (f"{n}.{kind}", content)
        for n, label in enumerate(labels)
        for kind, content in (("png", png(n)), ("cls", label.encode()))
    ]
    url = str(tar(tmp_path / "x.tar", *members))
    (tmp_path / "classes.txt").write_text("\n".join(names))
    data = Shards(train_urls=(url,), val_urls=(url,), classes_file=str(tmp_path / "classes.txt"))
    if expected is None:
        with pytest.raises(ValueError, match="has the label '0' which is none of 3 classes"):
            data.train()
    else:
        assert [label for _, label in values(data.train())] == expected


def test_a_file_that_goes_while_room_is_made_is_passed_over(tmp_path):
    # A link to nothing is listed and cannot be looked at, as a file is that was renamed in between.
    store = fsspec.filesystem("memory")
    store.pipe("/gone/a.tar", b"a" * 100)
    (shard,) = look(["memory://gone/a.tar"])
    cache = ShardCache(tmp_path / "copies", 250)
    cache.folder.mkdir(parents=True)
    for name in ("x.partial", "y.tar"):
        (cache.folder / name).symlink_to("nowhere")
    assert cache.local(shard).read_bytes() == b"a" * 100
