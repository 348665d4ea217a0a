"""What a run says of itself, before it begins and at its end."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import Accelerator

from distill import Arrays
from distill.preflight import check
from distill.script import recipe_of
from distill.summary import peak_bytes, peak_memory, rows
from tests.conftest import TINY


def test_a_run_without_loaders_says_nothing_of_them():
    alone = re.fullmatch(r", with at most (\d+\.\d) GiB of memory", peak_memory(loaders=False))
    assert alone is not None
    assert float(alone[1]) == round(peak_bytes() / 2**30, 1)
    assert peak_memory(loaders=True).endswith(" GiB in a loader, partly shared")


@pytest.mark.parametrize(("epochs", "said"), [(1, "in 1 epoch"), (2, "in 2 epochs")])
@pytest.mark.usefixtures("cpu_only")
def test_one_epoch_is_one_epoch(epochs: int, said: str, tiny_images: Path):
    tiny = recipe_of(TINY).without_teacher()
    plan = check(replace(tiny, data=Arrays(path=str(tiny_images)), optim=replace(tiny.optim, epochs=epochs)))
    assert dict(rows(plan, Accelerator()))["steps"].endswith(said)
