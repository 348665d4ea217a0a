"""Measurements with a command line of their own refuse what they cannot measure, in one line and at once."""

import sys

import pytest

from distill.bench.alone import start, start_with_recipe
from distill.bench.growth import Growth
from distill.bench.memory import Memory
from distill.bench.startup import Startup

QUICKSTART = "recipes/quickstart.py"


@pytest.mark.parametrize(
    ("begin", "command", "words", "line"),
    [
        (
            start_with_recipe,
            Memory,
            ["nothere"],
            "no recipe is named; name a script, as in measure",
        ),
        (start_with_recipe, Startup, ["--rounds", "0", QUICKSTART], "--rounds is 0 and --launches 3; use 1 or more"),
        (start_with_recipe, Startup, ["nothere.py"], "there is no recipe nothere.py; name a script such as"),
        (start_with_recipe, Memory, [QUICKSTART, "--dry-run"], "a rehearsal or a replay is no whole run"),
        (
            start_with_recipe,
            Memory,
            [QUICKSTART, "--replay", "3"],
            "a rehearsal or a replay is no whole run",
        ),
        (start, Growth, ["--rounds", "0"], "--rounds is 0; use 1 or more"),
    ],
)
def test_what_cannot_be_measured_is_one_line(begin, command, words, line, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["measure", *words])
    with pytest.raises(SystemExit) as ended:
        begin(command, "measure")
    said = capfd.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"error: {line}")
    assert said.count("\n") == 1


def test_options_that_the_recipe_has_not_are_refused_before_anything_is_measured(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["measure", QUICKSTART, "--nonsense", "1"])
    with pytest.raises(SystemExit) as ended:
        start_with_recipe(Startup, "measure")
    assert ended.value.code == 2
    assert "--nonsense" in capfd.readouterr().err
