"""An .npz file that broke off, was changed or claims too much: one line, never a traceback, never other images."""

import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from distill import Arrays

PARTS = {
    "train_images": np.arange(4 * 5 * 5, dtype=np.uint8).reshape(4, 5, 5),
    "train_labels": np.array([0, 1, 0, 1]),
    "val_images": np.ones((2, 5, 5), dtype=np.uint8),
    "val_labels": np.array([0, 1]),
    "classes": np.array(["a", "b"]),
}


def archive(compressed: bool = False) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **PARTS)
    return stream.getvalue()


def taken(file: Path) -> list:
    """All that is read of a file."""
    data = Arrays(path=str(file))
    return [data.classes, *(part for split in (data.train(), data.val()) for part in (split.images, split.labels))]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_download_that_broke_off_is_named_at_every_length(tmp_path, compressed):
    whole, file = archive(compressed), tmp_path / "x.npz"
    for length in range(0, len(whole), 23):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"x\.npz .*(fetch or save it again|holds .* but no)") as refused:
            taken(file)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("compressed", [False, True])
def test_changed_bytes_are_refused_or_change_nothing(tmp_path, compressed):
    whole, file, draw = archive(compressed), tmp_path / "x.npz", random.Random(0)
    (tmp_path / "whole.npz").write_bytes(whole)
    expected = taken(tmp_path / "whole.npz")
    refused: list[str] = []
    for _ in range(120):
        changed = bytearray(whole)
        changed[draw.randrange(len(whole))] ^= draw.randrange(1, 256)
        file.write_bytes(changed)
        try:
            found = taken(file)
        except ValueError as error:
            refused.append(str(error))
            continue
        # The archive's checksums cover the arrays; what is left are its dates and the like, or labels not being found.
        for one, other in zip(found, expected, strict=True):
            assert np.array_equal(one, other) or set(np.ravel(one)) <= {-1}
    assert len(refused) > 40
    assert not any("\n" in line for line in refused)


def test_one_array_is_no_archive(tmp_path):
    file = tmp_path / "x.npz"
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(ValueError, match=r"is no \.npz file of plain arrays"):
        Arrays(path=str(file)).train()


def test_an_archive_that_unpacks_to_more_than_the_memory_is_refused_unread(tmp_path):
    file = tmp_path / "x.npz"
    with zipfile.ZipFile(file, "w") as bomb:
        bomb.writestr("train_images.npy", b"")
        bomb.filelist[0].file_size = 2**50  # what the archive's table claims, as that of a real bomb would
    with pytest.raises(ValueError, match=r"train_images in .* unpacks to 1,048,576 GiB but this machine has .* memory"):
        Arrays(path=str(file)).train()
    # And an array whose own header claims it, in an archive that does not.
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (2**50,)})
    with zipfile.ZipFile(file, "w") as bomb:
        bomb.writestr("train_images.npy", head.getvalue())
    with pytest.raises(ValueError, match=r"train_images in .* cannot be read"):
        Arrays(path=str(file)).train()


def test_member_names_that_are_paths_become_none(tmp_path):
    file = tmp_path / "sub" / "x.npz"
    file.parent.mkdir()
    with zipfile.ZipFile(file, "w") as hostile:
        for name in ("../escaped.npy", "/escaped.npy", "train_images.npy"):
            stream = io.BytesIO()
            np.save(stream, np.zeros((2, 3, 3), dtype=np.uint8))
            hostile.writestr(name, stream.getvalue())
    assert len(Arrays(path=str(file)).train()) == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["sub", "x.npz"]
