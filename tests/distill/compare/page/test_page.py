"""The page says what the report says, leaves out what it has not, and takes every name for text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.compare import page
from distill.compare.page import Pictures, draw, render, write
from distill.compare.page.classes import per_class
from distill.compare.page.heat import confusion
from distill.compare.page.outcome import facts, headline
from distill.compare.page.plots import losses
from distill.compare.page.svg import Axis
from distill.compare.page.table import columns
from distill.compare.page.trust import reliability
from distill.compare.page.words import breakable, count, p_value, points, short

HOSTILE = "<script>window.hit=1</script>\"'><img src=x onerror=window.hit=1>&amp;{{7*7}}</style></title>"


class Elements(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.texts.append(data)


def headline_of(page: str) -> str:
    return re.findall(r"<h1>(.*?)</h1>", page)[0]


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', page)


def test_the_outcome_by_hand(report):
    assert headline(report) == "small keeps 90.0\u202f% of the accuracy of its teacher big"
    said = [(figure.replace("\u202f", " "), of.replace("\u202f", " ")) for figure, of in facts(report)]
    assert said == [
        ("81.0 %", "top-1, 95 % interval 78.0\u2060–\u206084.0"),
        ("+9.0 points", "over the same student without a teacher, at the same budget"),
        ("−9.0 points", "from big, McNemar p < 0.001"),
        ("5.0×", "fewer parameters"),
        ("2.0×", "faster on CPU"),
    ]


def test_every_figure_of_the_table(report):
    cells = {column.name: [cell.text.replace("\u202f", " ") for cell in column.cells] for column in columns(report)}
    assert cells["top-1"] == ["90.00 %", "81.00 %", "72.00 %"]
    assert cells["kept"] == ["100.0 %", "90.0 %", "80.0 %"]
    assert cells["p"] == ["–", "< 0.001", "< 0.001"]
    assert cells["params"] == ["3.40 M", "0.68 M", "0.68 M"]
    assert cells["images/s"] == ["200", "400", "600"]
    assert "memory" not in cells  # nobody measured it


def test_words_by_hand():
    assert [count(n) for n in (12, 3_400, 680_000, 5_717_416, 1.24e9)] == [
        "12", "3.40\u202fk", "0.68\u202fM", "5.72\u202fM", "1.24\u202fG",
    ]  # fmt: skip
    assert [short(v) for v in (0.26149, 12.345, 1234.5, 0)] == ["0.261", "12.3", "1,234", "0"]
    assert (p_value(0.0341), p_value(1e-9), points(-0.048)) == ("0.034", "<\u202f0.001", "−4.8")
    assert [short(v) for v in (-0.0000004, -0.02)] == ["0.000", "−0.020"]
    assert breakable("tf_net/a<b") == "tf_<wbr>net/<wbr>a&lt;b"


def test_a_full_report_has_every_section(report, pictures):
    html = render(report, pictures)
    assert sections(html) == [
        "models", "accuracy", "classes", "confusion", "calibration", "losses", "robustness", "layers", "gallery",
        "inside", "definitions",
    ]  # fmt: skip
    assert set(re.findall(r'href="#(\w+)"', html)) == set(sections(html))


def test_what_was_not_measured_is_left_out(report):
    bare = {"key", "role", "name", "source", "run", "params", "images"}
    models = [{name: model[name] if name in bare else None for name in model} for model in report["models"]]
    html = render(report | {"models": models, "curves": {}, "reference": None}, Pictures())
    assert sections(html) == ["models", "definitions"]
    assert "big, small and small-alone on the same images" in html
    assert html.count("<th scope") == 2 + 3  # model and params, and a row for each model


def test_models_of_no_run_are_ranked(report):
    models = [model | {"role": "model", "run": None, "alone": None} for model in report["models"]]
    assert headline(report | {"models": models}) == "big is right most often of 3 models: on 90.0\u202f% of the images"
    tied = [model | {"top1": 0.9} if model["key"] == "small" else model for model in models]
    assert headline(report | {"models": tied}).startswith("big and small are right most often of 3 models")
    equal = [model | {"top1": 0.9} for model in models]
    assert headline(report | {"models": equal}) == "Each of the 3 models is right on 90.0\u202f% of the images"


def test_names_are_text_everywhere(report_of, squares, eyes):
    evil = report_of(names=[f"{HOSTILE}{c}" for c in range(10)])
    evil["data"]["name"] = HOSTILE
    for number, model in enumerate(evil["models"]):
        model["name"] = model["cost"]["device"] = f"{HOSTILE}{number}"
        model |= {"robustness": {HOSTILE: [0.1] * 5}, "uncorrupted_top1": 0.2}
    evil["curves"]["runs/small"]["losses"] = {HOSTILE: [[0, 1.0], [1, 2.0]]}
    html = render(evil, draw(evil, squares, eyes))
    found = Elements(html)
    assert found.tags.count("script") == 1
    assert found.tags.count("style") == html.count("</style>") == 1
    assert sum(HOSTILE in text for text in found.texts) > 20
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert all(value.startswith("data:") for name, value in found.attributes if name == "src")
    for attribute in ("alt", "aria-label", "title"):
        assert any(HOSTILE in value for name, value in found.attributes if name == attribute)
    assert "49" not in "".join(text for text in found.texts if "7*7" in text)


def test_the_policy_allows_this_script_and_no_other(report):
    import base64
    import hashlib

    html = render(report)
    script = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy.replace("&#39;", "'").split("; ")[:2] == ["default-src 'none'", f"script-src 'sha256-{digest}'"]
    assert not re.findall(r"https?://", html)


def test_a_thousand_classes_show_both_ends(report_of, squares, eyes, tmp_path):
    many = report_of(classes=1000, images=50_000)
    squares.read.clear()
    drawn = draw(many, squares, eyes)
    assert set(squares.read) == {7 * n for n in range(12)}  # of 50,000 images only the gallery's
    groups = per_class(many)
    assert [(len(g.worst), len(g.best), g.left_out) for g in groups] == [(20, 20, 960)] * 2
    losses = [row.difference for row in groups[0].worst + groups[0].best]
    assert losses == sorted(losses)
    assert [(each.shown, each.classes) for each in confusion(many)] == [(40, 1000)] * 2
    counts = [[0] * 40 for _ in range(40)]
    counts[3][3], counts[3][8] = 5, 1
    many["models"][1]["confusion"]["counts"] = counts
    assert confusion(many)[0].shown == 2  # classes on which nothing differs are not drawn
    write(tmp_path, many, drawn)
    assert (tmp_path / "report.html").stat().st_size < 3e6


def test_classes_by_hand(report):
    models = [dict(model) for model in report["models"][:2]]
    models[0]["per_class"] = [{"images": 10, "correct": 9}, {"images": 10, "correct": 5}, {"images": 0, "correct": 0}]
    models[1]["per_class"] = [{"images": 10, "correct": 10}, {"images": 10, "correct": 2}, {"images": 0, "correct": 0}]
    (group,) = per_class(report | {"models": models, "data": report["data"] | {"classes": ["a", "b", "c"]}})
    assert [(row.name, round(row.difference, 9)) for row in group.worst] == [("b", -0.3), ("a", 0.1)]
    assert (round(group.lost, 9), round(group.won, 9)) == (0.3, 0.1)


def test_bars_of_all_models_have_one_scale(report):
    models = [dict(model) for model in report["models"]]
    for model, right in zip(models, ((9, 5), (10, 2), (4, 9)), strict=True):
        model["per_class"] = [{"images": 10, "correct": n} for n in right]
    groups = per_class(report | {"models": models, "data": report["data"] | {"classes": ["a", "b"]}})
    assert [(round(group.lost, 9), round(group.won, 9)) for group in groups] == [(0.5, 0.4)] * 2
    html = render(report | {"models": models, "data": report["data"] | {"classes": ["a", "b"]}})
    assert len(set(re.findall(r'<td class="change"><svg viewBox="([^"]+)"', html))) == 1


def test_models_of_one_name_are_called_by_their_keys(report):
    models = [dict(model) for model in report["models"]]
    models[2] |= {"name": "small", "key": "elsewhere/small"}
    html = render(report | {"models": models})
    called = re.findall(r'<th scope="row" data-value="([^"]+)"', html)
    assert called[:3] == ["big", "small", "elsewhere/small"]
    models[1]["key"] = "here/small"
    assert headline_of(render(report | {"models": models})).startswith("here/small keeps")


def test_confusion_pairs_by_hand(report):
    models = [dict(model) for model in report["models"][:2]]
    models[1]["confusion"] = {"classes": [2, 5], "counts": [[90, 7], [12, 80]]}
    (found,) = confusion(report | {"models": models})
    assert found.pairs == [("class 5", "class 2", 12), ("class 2", "class 5", 7)]


def test_ticks_by_hand():
    assert Axis(low=0, high=10, start=0, end=1).ticks() == [0, 2, 4, 6, 8, 10]
    assert Axis(low=71.3, high=88.1, start=0, end=1).ticks() == [75, 80, 85]
    assert Axis(low=100, high=2000, start=0, end=1, log=True).ticks() == [100, 200, 500, 1000, 2000]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_inside_and_few(low, span):
    axis = Axis(low=low, high=low + span, start=10, end=300)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 7
    assert all(9.9 <= axis.at(tick) <= 300.1 for tick in ticks)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_colours_have_contrast(scheme):
    """WCAG 2.2 asks for 4.5 to 1 for text and 3 to 1 for marks."""
    css = (Path(page.__file__).parent / "page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, re.S)
    colour = dict(re.findall(r"--(\w+): (#\w{6})", blocks[scheme == "dark"]))

    def luminance(code: str) -> float:
        linear = [
            v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4
            for v in (int(code[at : at + 2], 16) / 255 for at in (1, 3, 5))
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a: str, b: str) -> float:
        light, dark = sorted((luminance(colour[a]), luminance(colour[b])), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    for paper in ("paper", "card"):
        assert contrast("ink", paper) > 7
        assert contrast("faint", paper) > 4.5
        assert min(contrast(f"s{number}", paper) for number in range(7)) > 4.5


def test_the_total_is_not_called_unweighted(report):
    plots = {plot.title: str(plot.svg) for plot in losses(report)}
    assert ("weighted sum" in plots["loss"], "unweighted" in plots["loss"]) == (True, False)
    assert ("weighted sum" in plots["soft"], "unweighted" in plots["soft"]) == (False, True)


def test_before_and_after_temperature_scaling(report):
    small = dict(report["models"][1])
    before = small["calibration"]["before"]
    note = "T comes from 20 labelled <images>"
    after = before | {"nll": 5.234, "brier": 0.75, "ece": 0.5}
    small["calibration"] = {"before": before, "temperature": 0.21, "after": after, "note": note}
    few = report | {"models": [report["models"][0], small]}
    cells = {column.name: (column.cells[1].text, column.cells[1].under) for column in columns(few)}
    assert (cells["NLL"], cells["Brier"]) == (("0.500", "5.23 at T"), ("0.300", "0.750 at T"))
    assert (cells["ECE"], cells["T"]) == (("4.0\u202f%", "50.0\u202f% at T"), ("0.210", ""))
    plot = str(reliability(few)[1].svg)
    assert re.findall(r">(ECE|NLL|Brier) ([\d.]+)", plot) == [
        ("ECE", "4.0"), ("NLL", "0.500"), ("Brier", "0.300"), ("ECE", "50.0"), ("NLL", "5.23"), ("Brier", "0.750"),
    ]  # fmt: skip
    assert "T comes from 20 labelled &lt;images&gt;" in render(few)
    assert "Few images" not in render(report)


def test_a_card_names_the_file_where_there_is_one(report):
    small = dict(report["models"][1])
    first, second = small["disagreements"][:2]
    small["disagreements"] = [first | {"file": "val/a<b>/1.png"}, second | {"file": None}]
    html = render(report | {"models": [report["models"][0], small]})
    cards = re.findall(r'<article class="card">.*?<small>(.*?)</small>', html)
    assert cards == ["val/<wbr>a&lt;b&gt;/1.<wbr>png", "image 7"]
