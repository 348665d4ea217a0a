"""Asking for help waits for nothing that a run needs, and torch's threads are told to sleep before torch is there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distill import waiting

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "timm", "accelerate", "onnxruntime", "matplotlib", "datasets", "safetensors"}

# One process for all: what one of them imports, the others have as well.
SCRIPT = """
import contextlib, io, json, os, runpy, sys
from distill.__main__ import main

heavy, commands, recipes, found = set(json.loads(sys.argv[1])), *map(json.loads, sys.argv[2:]), {}

def asked(name, start, *arguments):
    sys.argv = [*arguments, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        start()
    spins = os.environ.pop("GOMP_SPINCOUNT", None)
    found[name] = "usage: " in said.getvalue(), sorted(heavy & sys.modules.keys()), spins

for words in commands:
    asked(" ".join(words), main, "distill", *words)
for recipe in recipes:
    sys.path.insert(0, recipe.rpartition("/")[0])
    asked(recipe, lambda: runpy.run_path(recipe, run_name="__main__"), recipe)
print(json.dumps(found))
"""


def test_help_of_every_command_and_recipe_imports_nothing_heavy_and_says_how_threads_wait():
    names = ["compare", "export", "losses", "predict", "recipes", "save", "teacher"]
    quickstart = str(ROOT / "recipes/quickstart.py")
    commands = [[], *([name] for name in names), ["save", quickstart], ["teacher", "fit", quickstart]]
    recipes = [str(file) for file in sorted((ROOT / "recipes").rglob("*.py")) if "run(recipe)" in file.read_text()]
    assert len(recipes) >= 20
    arguments = [json.dumps(part) for part in (sorted(HEAVY), commands, recipes)]
    env = {name: value for name, value in os.environ.items() if name not in waiting.SETTINGS}
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == len(commands) + len(recipes)
    assert {name: said for name, said in found.items() if said != [True, [], waiting.SPINS]} == {}


# The refusal goes through the recipe's own command line; what was imported by then is said behind it.
REFUSED = """
import json, runpy, sys

heavy, recipe = set(json.loads(sys.argv[1])), sys.argv[2]
sys.argv = sys.argv[2:]
sys.path.insert(0, recipe.rpartition("/")[0])
try:
    runpy.run_path(recipe, run_name="__main__")
finally:
    print(json.dumps(sorted(heavy & sys.modules.keys())))
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--log-every-steps", "0"), "--log-every-steps is 0; use 1 or more"),
        (("--trackers", "all"), "name those you want, such as tensorboard"),
        (("--optim.lr", "0"), "optim.lr is 0.0; use a number above 0"),
        (("--data.path", "nowhere.npz"), "nowhere.npz; name an .npz file with --data.path"),
        (("--out", "photos"), "photos is not empty and not a run folder; choose another with --out"),
        (("--out", "photos/cat.jpg"), "photos/cat.jpg is a file and --out names a run folder; choose another"),
    ],
)
def test_what_is_wrong_without_a_model_is_said_before_one_could_be_built(tmp_path, options, message):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"precious")
    quickstart = str(ROOT / "recipes/quickstart.py")
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, json.dumps(sorted(HEAVY)), quickstart, *options],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith(f"{message}\n")
    assert json.loads(done.stdout) == []
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("name", waiting.SETTINGS)
def test_how_threads_wait_is_left_to_a_user_who_says_it(monkeypatch, name):
    for setting in waiting.SETTINGS:
        monkeypatch.delenv(setting, raising=False)
    monkeypatch.setenv(name, "7")
    waiting.rest()
    assert {setting: os.environ.get(setting) for setting in waiting.SETTINGS} == {
        setting: "7" if setting == name else None for setting in waiting.SETTINGS
    }
