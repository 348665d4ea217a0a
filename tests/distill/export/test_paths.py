"""No absolute path of a machine is in what is published, and nothing else changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.export.paths import without_paths


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/home/me/data/birds.npz", "birds.npz"),
        ("/home/My Name/birds", "birds"),
        ("local-dir:/home/me/runs/teacher", "local-dir:teacher"),
        ("~/birds", "birds"),
        ("~me/data/birds", "birds"),
        (r"C:\Users\me\birds", "birds"),
        (r"\\server\share\birds", "birds"),
        ("file:///home/me/birds", "birds"),
        ("/data/shards/train-{000..099}.tar", "train-{000..099}.tar"),
        ("timm/resnet50.a1_in1k", "timm/resnet50.a1_in1k"),
        ("hf-hub:org/name", "hf-hub:org/name"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("s3://bucket/a/b-{0..9}.tar", "s3://bucket/a/b-{0..9}.tar"),
        ("runs/mine", "runs/mine"),
        ("../runs/mine", "../runs/mine"),
        ("rand-m9-mstd0.5-inc1", "rand-m9-mstd0.5-inc1"),
        ("distill.data.Arrays", "distill.data.Arrays"),
        ("", ""),
    ],
)
def test_the_folders_of_absolute_paths_go_and_names_stay(before, after):
    assert without_paths(before) == after


NAMES = st.lists(st.text("abcXYZ019_.- é", min_size=2).map(lambda name: f"q{name}q"), min_size=2, max_size=5)


@given(NAMES, st.sampled_from(["/", "local-dir:/", "file:///", "C:/"]))
def test_of_any_absolute_path_only_the_last_name_is_left(names, root):
    left = without_paths({"a": [root + "/".join(names), 3, None, True]})
    assert left == {"a": [("local-dir:" if root.startswith("local") else "") + names[-1], 3, None, True]}
