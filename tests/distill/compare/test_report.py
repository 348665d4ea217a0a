"""The report says what was measured, and takes names for text."""

import io
from typing import Any

import pytest
from rich.console import Console

from distill.checkpoint import latest_step
from distill.compare.calibrate import caveat
from distill.compare.cells import number
from distill.compare.markdown import markdown, text
from distill.compare.report import closing_lines, left_out, tables


def row(**changes: Any) -> dict[str, Any]:
    empty = dict.fromkeys(
        ("run", "alone", "teacher", "top1", "top1_interval", "top5", "top5_interval", "nll", "agreement", "kl", "kept",
         "mcnemar", "fidelity", "calibration", "confusion", "robustness", "cost")
    )  # fmt: skip
    return empty | {"per_class": [], "disagreements": [], "img_size": [28, 28], "images": 400} | changes


def of_class(correct: int) -> list[dict[str, Any]]:
    return [{"images": 400, "correct": correct, "interval": [0.5, 0.95]}]


CURVE = {"nll": 0.25, "brier": 0.125, "ece": 0.0625, "bins": []}
TIMES = {"median": 2.5, "low": 2.0, "high": 4.0}
COST = {
    "macs": 1_500_000, "file_bytes": 2_400_000, "latency_ms": TIMES, "throughput": TIMES, "peak_bytes": None,
    "rounds": 5, "device": "cpu", "threads": 2,
}  # fmt: skip
TEACHER = row(
    key="big|<b>", role="teacher", name="big", top1=0.9, top1_interval=[0.85, 0.93], kept=1.0, params=4_650_000,
    calibration={"before": CURVE, "temperature": 1.5, "after": CURVE}, per_class=of_class(360),
    cost=COST, robustness={"jpeg": [0.5, 0.4, 0.3, 0.2, 0.1]}, uncorrupted_top1=0.55,
)  # fmt: skip
STUDENT = row(
    key="small [/]", role="student", name="small", top1=0.81, top1_interval=[0.77, 0.845], top5=0.99,
    top5_interval=[0.97, 1.0], agreement=0.8, kl=0.25, kept=0.9, params=680_000, run="runs/small", alone="runs/alone",
    mcnemar={"only_reference": 46, "only_this": 10, "p": 0.00123}, per_class=of_class(324),
    fidelity={"rank_correlation": 0.5, "cka": {"values": [[0.1, 0.2], [0.3, 0.75]]}},
    calibration={"before": CURVE, "temperature": None, "after": None}, cost=COST,
    robustness={"jpeg": [0.5, 0.4, 0.3, 0.2, 0.0]}, uncorrupted_top1=0.81,
)  # fmt: skip
ALONE = row(
    key="alone", role="baseline", name="alone", top1=0.75, top1_interval=[0.7, 0.79], agreement=0.7, kl=0.5,
    kept=0.75 / 0.9, params=680_000, run="runs/alone", per_class=of_class(300),
    robustness={"jpeg": [0.5, 0.4, 0.3, 0.2, 0.0]}, uncorrupted_top1=0.81,
)  # fmt: skip


def report(*models: dict[str, Any], **data: Any) -> dict[str, Any]:
    about = {"name": "my_<data>", "images": 400, "labelled": 400, "corrupted": 50, "classes": ["a*b"]}
    return {"data": about | data, "reference": "big|<b>", "models": list(models)}


def test_markdown_by_hand():
    page = markdown(report(TEACHER, STUDENT, ALONE))
    assert r"On the same 400 images of my\_&lt;data&gt;." in page
    assert r"| teacher | big\|&lt;b&gt; | 90.00 [85.0, 93.0] | – | – | – | – | – | – | 100.00 | 4.65 M |" in page
    student = r"| student | small \[/\] | 81.00 [77.0, 84.5] | 99.00 [97.0, 100.0] | 0.001 | 80.00 | 0.250 | 0.50 "
    assert student + "| 0.75 | 90.00 | 0.68 M |" in page
    assert r"small \[/\] is +6.0 points of top-1 from alone" in page
    assert r"| big\|&lt;b&gt; | 0.250 | 0.125 | 6.25 | 1.50 | 0.250 | 0.125 | 6.25 |" in page
    assert r"| small \[/\] | 0.250 | 0.125 | 6.25 | – | – | – | – |" in page
    assert r"| small \[/\] | 28×28 | 1.5 M | 2.4 MB | 2.50 [2.00, 4.00] | 2 [2, 4] | – |" in page
    assert r"| small \[/\] | 81.00 | 28.00 |" in page  # the mean of five strengths
    assert r"| a\*b | 400 | 81.00 [50.0, 95.0] | 90.00 [50.0, 95.0] |" in page
    assert closing_lines(report(TEACHER, STUDENT | {"alone": None}, ALONE)) == []  # not of the same recipe


def test_text_is_never_layout():
    assert text("a|b\n# c <i>&_*[x](y)`~\\") == r"a\|b # c &lt;i&gt;&amp;\_\*\[x\](y)\`\~\\"


@pytest.mark.parametrize("width", [60, 120])
def test_tables_fit_the_window_and_show_names_as_they_are(width):
    printed = io.StringIO()
    console = Console(file=printed, width=width, highlight=False)
    for table in tables(report(TEACHER, STUDENT, ALONE), width):
        console.print(table)
    lines = printed.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)  # nothing is cut off
    shown = printed.getvalue()
    assert "big|<b>" in shown
    assert "small [/]" in shown
    assert "81.00" in shown
    assert "28.00" in shown
    assert ("99.00" in shown) == (width == 120)


def test_a_narrow_window_says_what_it_leaves_out():
    whole = report(TEACHER, STUDENT, ALONE)
    assert left_out(whole, 120) == []
    expected = ["top-5 %", "p", "KL", "ranks", "CKA", "params", "Brier", "NLL at T", "Brier at T", "size", "file"]
    assert left_out(whole, 60) == expected  # and no memory, which none was measured of
    assert left_out(report(row(key="x", role="model", name="x", params=1)), 60) == ["params"]


def test_what_was_not_measured_is_left_out():
    plain = row(key="x", role="model", name="x", agreement=None, params=1)
    assert [table.title for table in tables(report(plain), 120)] == ["on the same 400 images"]
    assert "## " not in markdown(report(plain, labelled=0))


def test_a_half_written_checkpoint_is_not_the_latest(tmp_path):
    assert latest_step(tmp_path / "none") == 0
    for name in ("step_000000090", "step_000000100", "step_000000110.partial"):
        (tmp_path / name).mkdir()
    assert latest_step(tmp_path) == 100


def test_what_rounds_to_nothing_has_no_sign():
    assert [number(value) for value in (-4e-7, -0.0, -0.02)] == ["0.000", "0.000", "-0.020"]


def test_a_temperature_of_few_images_says_so():
    assert caveat(500) is None
    few = caveat(20)
    assert few
    assert few.startswith("T comes from 20 labelled images")
    noted = STUDENT | {"calibration": STUDENT["calibration"] | {"note": few}}
    assert f"**Few images.** {few}" in markdown(report(TEACHER, noted))
    assert "Few images" not in markdown(report(TEACHER, STUDENT))
