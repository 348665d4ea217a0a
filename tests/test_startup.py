"""Asking for help waits for nothing that a run needs."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "timm", "accelerate", "onnxruntime", "matplotlib", "datasets", "safetensors"}

# One process for all: what one of them imports, the others have as well.
SCRIPT = """
import contextlib, io, json, runpy, sys
from distill.__main__ import main

heavy, commands, recipes, found = set(json.loads(sys.argv[1])), *map(json.loads, sys.argv[2:]), {}

def asked(name, start, *arguments):
    sys.argv = [*arguments, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        start()
    found[name] = "usage: " in said.getvalue(), sorted(heavy & sys.modules.keys())

for words in commands:
    asked(" ".join(words), main, "distill", *words)
for recipe in recipes:
    sys.path.insert(0, recipe.rpartition("/")[0])
    asked(recipe, lambda: runpy.run_path(recipe, run_name="__main__"), recipe)
print(json.dumps(found))
"""


def test_help_of_every_command_and_recipe_imports_nothing_heavy():
    names = ["compare", "export", "losses", "predict", "recipes", "save", "teacher"]
    quickstart = str(ROOT / "recipes/quickstart.py")
    commands = [[], *([name] for name in names), ["save", quickstart], ["teacher", "fit", quickstart]]
    recipes = [str(file) for file in sorted((ROOT / "recipes").rglob("*.py")) if "run(recipe)" in file.read_text()]
    assert len(recipes) >= 20
    arguments = [json.dumps(part) for part in (sorted(HEAVY), commands, recipes)]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == len(commands) + len(recipes)
    assert {name: said for name, said in found.items() if said != [True, []]} == {}
