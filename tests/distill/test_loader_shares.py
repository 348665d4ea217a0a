"""What each process gets of a set that is looked at once: every image once, and equally many batches."""

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

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
