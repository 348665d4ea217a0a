"""What is printed into a file or a pipe."""

import re

import pytest
from rich.table import Table

from distill.console import Console


def test_a_table_in_a_pipe_has_no_blanks_behind_its_rows(capsys):
    Console().summary("a run", [("teacher", "resnet50"), ("loss [hard]", "1 × HardTargets of the distillation token")])
    said = capsys.readouterr().out
    assert said.splitlines() == [
        "a run",
        " teacher      resnet50",
        " loss [hard]  1 × HardTargets of the distillation token",
    ]
    assert said.endswith("token\n")


def test_other_processes_are_silent(capsys):
    Console(main=False).summary("a run", [("teacher", "resnet50")])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("columns", [60, 120])
def test_a_path_is_in_one_line_however_narrow_the_window(capsys, monkeypatch, columns, terminal):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    path = "/a/folder/" + "of/a/long/name/" * 12 + "report.html"
    console = Console()
    assert console.rich.is_terminal == terminal
    console.say(f"no room in this window for [top-5], p and more, nor for what comes behind them: see {path}, or ask")
    console.summary(path, [("teacher", f"{path} (folder {path})"), ("images", "28×28 px, grey, in patches of 7×7 px")])
    said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert said.count(path) == 4
    lines = said.splitlines()
    assert all(len(line) <= columns for line in lines if path not in line) or not terminal
    assert lines[-1] == " images   28×28 px, grey, in patches of 7×7 px"
    if terminal and columns == 60:
        assert lines[:3] == [
            "no room in this window for [top-5], p and more, nor for what",
            "comes behind them: see",
            f"{path},",
        ]


TABLE = ["of [both]", "model                    top-1 %", "resnet50-of-[mine]         80.00", f"{'[78.0, 82.0]':>32}"]
FOLDED = [
    "of [both]",
    "model                  top-1 %",
    "resnet50-of-[min         80.00",
    "e]                [78.0, 82.0]",
]
LINES = ["of [both]", " model    resnet50-of-[mine]", " top-1 %  80.00 [78.0, 82.0]"]


@pytest.mark.parametrize(("columns", "least", "lines"), [(32, 16, TABLE), (30, 16, FOLDED), (30, 17, LINES)])
def test_a_table_that_does_not_fit_has_a_figure_a_line(capsys, columns, least, lines):
    table = Table(title=r"of \[both]", title_justify="left", box=None, pad_edge=False)
    for name in ("model", "top-1 %"):
        table.add_column(name, justify="left" if name == "model" else "right", overflow="fold")
    table.add_row(r"resnet50-of-\[mine]", "80.00\n[78.0, 82.0]")
    console = Console()
    console.rich.width = columns
    console.table(table, foldable="model", least=least)
    assert capsys.readouterr().out.splitlines() == lines
