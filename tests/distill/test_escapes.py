"""Names stay names: none leaves its folder, none becomes a page's code, and no YAML is run."""

import ast
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from huggingface_hub import ModelCard

from distill import Arrays, run
from distill.export.command import Export
from distill.losses import CrossEntropy, SoftTargets
from teachers import Teacher
from tests.tiny_recipe import recipe

REPOSITORY = Path(__file__).parents[2]
SCRIPT = "<script>alert(1)<"


def test_names_of_run_teacher_and_losses_stay_in_the_folder(tmp_path, tiny_images, tiny_teacher, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    # As long as a folder can be called so, it is; a teacher's is reached by a way that leaves the folder and returns.
    teacher = shutil.copytree(tiny_teacher, tmp_path / f"..{SCRIPT}")
    value = replace(
        recipe,
        data=Arrays(path=str(tiny_images)),
        teacher=Teacher(name=str(teacher / ".." / teacher.name), runtime="eager"),
        losses={"../../escaped": CrossEntropy(), "/escaped": SoftTargets(), f"{SCRIPT}/script>": CrossEntropy()},
    )
    out = tmp_path / "runs" / SCRIPT
    run(value, ["--out", str(out), "--optim.epochs", "1", "--optim.warmup-epochs", "0", "--workers", "0"])
    Export(student=out / ".." / SCRIPT, to="hub")()
    assert {path.name for path in tmp_path.iterdir()} == {teacher.name, "runs", "exports"}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [SCRIPT]
    assert [path.name for path in (tmp_path / "exports").iterdir()] == [f"{SCRIPT}-hub"]
    assert not list(tmp_path.parent.glob("*escaped*"))
    page = (out / "report.html").read_text()
    assert SCRIPT not in page
    assert "&lt;script&gt;alert(1)&lt;" in page
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("name", ["../../escaped", "hf-hub:../../escaped", "local-dir:../escaped", "/escaped", "a\0b"])
def test_a_teacher_by_a_path_that_is_none_is_refused_and_writes_nothing(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"escaped|a\x00b") as refused:
        Teacher(name=name).build()
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_no_file_of_ours_reads_yaml():
    calls = {"load", "load_all", "unsafe_load", "full_load"}
    for package in ("distill", "students", "teachers", "recipes"):
        for file in (REPOSITORY / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    assert "yaml" not in {name.name for name in node.names}, file
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    assert not (node.value.id == "yaml" and node.attr in calls), file


def test_a_launchers_yaml_that_asks_for_code_is_refused(tmp_path):
    file = tmp_path / "evil.yaml"
    file.write_text(f"compute_environment: !!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']\n")
    with pytest.raises(yaml.constructor.ConstructorError):
        load_config_from_file(str(file))
    assert not (tmp_path / "ran").exists()


def test_the_cards_yaml_takes_names_for_text(tmp_path):
    evil = "!!python/object/apply:os.mkdir ['ran']\nlicense: stolen"
    from distill.export.card import Facts, _front_matter

    class Source:
        name = evil

    facts = Facts(recipe=None, report=None, license=None, license_name=None, license_link=None, teacher_license=None,
                  datasets=(evil,), repo=None)  # fmt: skip
    text = _front_matter(Source(), facts, [evil], {"top1": 0.5})  # type: ignore[arg-type]
    read = yaml.safe_load(text)
    assert (read["teacher"], read["datasets"], "license" in read) == ([evil], [evil], False)
    (tmp_path / "README.md").write_text(f"---\n{text}\n---\n")
    data: Any = ModelCard.load(tmp_path / "README.md").data
    assert data.model_name == evil
