"""The steps that the whole loop is timed by."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.bench.whole import logged


@pytest.mark.parametrize(
    ("count", "every", "expected"), [(4, 50, (4, 4)), (50, 50, (50, 50)), (53, 50, (27, 54)), (150, 50, (50, 150))]
)
def test_a_turn_ends_with_a_line_of_the_log(count, every, expected):
    assert logged(count, every) == expected


@given(st.integers(1, 5_000), st.integers(1, 200))
def test_a_turn_is_no_longer_than_it_needs_and_logs_no_more_often(count, every):
    often, steps = logged(count, every)
    assert steps % often == 0
    assert often <= every
    assert often >= min(count, every) / 2
    assert 0 <= steps - count < -(-count // every)
