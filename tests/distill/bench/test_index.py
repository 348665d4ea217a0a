"""The index of a folder: as many files as asked for, and its memory by their number."""

import pytest

from distill.bench.index import Index, indexed, write
from distill.data import Folder

MOST = 100e6 / 128_000  # bytes a file


def test_files_are_as_many_as_asked_for_in_both_splits(tmp_path):
    write(tmp_path, 1_001)
    folder = Folder(root=str(tmp_path))
    assert (len(folder.train()), len(folder.val()), len(folder.classes)) == (501, 500, 100)


def test_memory_of_the_index_stays_below_its_share_and_grows_with_the_files_at_most():
    few, many = indexed(1_000), indexed(2_000)
    assert many["held_bytes"] <= many["peak_bytes"] < 2_000 * MOST
    assert few["held_bytes"] < many["held_bytes"] < 2.1 * few["held_bytes"]
    assert many["peak_bytes"] < 2.1 * few["peak_bytes"]


def test_too_few_files_are_refused():
    with pytest.raises(ValueError, match="--files are"):
        Index(files=(100,))()
