"""What each process gets of a set that is looked at once: every image once, and equally many batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distill.compare import seen
from distill.compare.terms import Terms
from distill.loader import in_order
from distill.views import Views, val_transform

ONE = Image.new("L", (1, 1))


class Blanks:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return ONE, 0


@pytest.fixture(scope="module", autouse=True)
def _in_the_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seen, "FEW", 10**6)
        yield


@settings(max_examples=40)
@given(images=st.integers(1, 40), processes=st.integers(1, 5), batch_size=st.integers(2, 9))
def test_every_image_once_and_as_many_batches_for_all(images, processes, batch_size):
    transform = val_transform(Views(crop_pct=1.0), (1, 1), 1)
    seen, counts = [], []
    for process in range(processes):
        shares = {"process": process, "processes": processes}
        batches = list(in_order(Blanks(images), transform, batch_size=batch_size, workers=0, **shares))
        assert all(1 <= len(batch.index) <= batch_size for batch in batches)
        seen += [int(i) for batch in batches for i in batch.index]
        counts.append(len(batches))
    assert sorted(seen) == list(range(images))
    assert len(set(counts[: min(images, processes)])) == 1  # of those that have any


@settings(max_examples=20)
@given(images=st.integers(1, 300), processes=st.integers(1, 4))
def test_a_comparison_shows_every_image_once_in_as_many_batches_for_all(images, processes):
    found, counts = [], []
    for process in range(processes):
        terms = [Terms((1, 1), 1)]
        parts = list(seen.seen(Blanks(images), terms, indices=range(images), process=process, processes=processes))
        found += [int(i) for part in parts for i in part.index]
        counts.append(len(parts))
    assert sorted(found) == list(range(images))
    assert len(set(counts[: min(images, processes)])) == 1


LOADS = """
import tempfile
from PIL import Image
from distill.loader import in_order
from distill.views import Views, val_transform

images = [(Image.new("L", (8, 8), number), number) for number in range(6)]
batches = in_order(images, val_transform(Views(), (8, 8), 1), batch_size=4, workers=1)
print([len(batch.views) for batch in batches], tempfile.gettempdir())
"""


def test_loaders_hand_over_their_batches_however_long_the_path_of_the_temporary_folder(tmp_path):
    # A socket's path is at most 107 bytes long; a batch that cannot be handed over would be waited for for ever.
    place = tmp_path / ("long" * 30)
    place.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LOADS],
        env=os.environ | {"TMPDIR": str(place)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == f"[4, 2] {place}\n", done.stderr
    assert not list(place.iterdir())
