"""The report says what was measured, and takes names for text."""

from dataclasses import replace

from distill.checkpoint import latest_step
from distill.compare.report import closing_lines, markdown
from distill.compare.runs import Row, as_json

TEACHER = Row(
    role="teacher", name="big|<b>", top1=0.9, top1_interval=(0.85, 0.93), top5=None, top5_interval=None, nll=0.3,
    agreement=None, kl=None, kept=1.0, params=4_650_000, images=400,
)  # fmt: skip
STUDENT = Row(
    role="student", name="small", top1=0.81, top1_interval=(0.77, 0.845), top5=0.99, top5_interval=(0.97, 1.0), nll=0.5,
    agreement=0.8, kl=0.25, kept=0.9, params=680_000, images=400, run="runs/small", alone="runs/alone",
)  # fmt: skip
ALONE = Row(
    role="baseline", name="alone", top1=0.75, top1_interval=(0.7, 0.79), top5=None, top5_interval=None, nll=0.7,
    agreement=0.7, kl=0.5, kept=0.75 / 0.9, params=680_000, images=400, run="runs/alone",
)  # fmt: skip


def test_markdown_by_hand():
    page = markdown([TEACHER, STUDENT, ALONE])
    assert "On the same 400 validation images." in page
    assert r"| teacher | big\|&lt;b> | 90.00 [85.0, 93.0] | – | – | – | 100.00 | 4.65 M |" in page
    assert "| student | small | 81.00 [77.0, 84.5] | 99.00 [97.0, 100.0] | 80.00 | 0.250 | 90.00 | 0.68 M |" in page
    assert "small is +6.0 points of top-1 from alone" in page
    assert closing_lines([TEACHER, replace(STUDENT, alone=None), ALONE]) == []  # not of the same recipe


def test_json_holds_fractions_by_model():
    models = as_json([TEACHER, STUDENT])["models"]
    assert [(m["role"], m["top1"], m["params"]) for m in models] == [
        ("teacher", 0.9, 4_650_000),
        ("student", 0.81, 680_000),
    ]


def test_a_half_written_checkpoint_is_not_the_latest(tmp_path):
    assert latest_step(tmp_path / "none") == 0
    for name in ("step_000000090", "step_000000100", "step_000000110.partial"):
        (tmp_path / name).mkdir()
    assert latest_step(tmp_path) == 100
