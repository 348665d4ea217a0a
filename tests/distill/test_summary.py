"""What a run says of itself at its end."""

from __future__ import annotations

import re

from distill.summary import peak_bytes, peak_memory


def test_a_run_without_loaders_says_nothing_of_them():
    alone = re.fullmatch(r", with at most (\d+\.\d) GiB of memory", peak_memory(loaders=False))
    assert alone is not None
    assert float(alone[1]) == round(peak_bytes() / 2**30, 1)
    assert peak_memory(loaders=True).endswith(" GiB in a loader, partly shared")
