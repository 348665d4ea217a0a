"""TorchScript and pt2 files say what the student says, and torch alone loads them."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from distill.export import pt2, torchscript
from distill.export import source as source_module
from distill.export.command import Export

REPOSITORY = str(Path(__file__).parents[3])

LOAD = """
import sys
sys.modules.update(students=None, distill=None, teachers=None, timm=None)  # importing any of them fails
import warnings; warnings.simplefilter("ignore")
import torch
told = {"preparation.json": ""}
script = torch.jit.load(sys.argv[1], _extra_files=told)
program = torch.export.load(sys.argv[2]).module()
images = torch.load(sys.argv[3])
torch.save([script(images), program(images)], sys.argv[4])
print(told["preparation.json"].decode())
"""


@pytest.fixture(scope="module")
def files(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    Export(student=run, to="torchscript", out=folder / "a.torchscript.pt")()
    Export(student=run / "student", to="pt2", out=folder / "a.pt2", normalize=True)()
    return folder


def test_torch_alone_loads_both_and_gets_the_students_answers(files, source, tmp_path):
    images = torch.rand(7, 1, 28, 20, generator=torch.Generator().manual_seed(0))
    torch.save(images, tmp_path / "images.pt")
    paths = [files / "a.torchscript.pt", files / "a.pt2", tmp_path / "images.pt", tmp_path / "answers.pt"]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, paths)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    script, program = torch.load(tmp_path / "answers.pt")
    with torch.no_grad():
        torch.testing.assert_close(script, source.student(images), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(program, source.student((images - 0.3) / 0.4), atol=1e-5, rtol=1e-5)
    told = {name: json.loads(text) for name, text in json.loads(done.stdout).items()}
    assert (told["img_size"], told["mean"], told["crop_pct"]) == ([28, 20], [0.3], 0.9)


def test_pt2_holds_no_path_of_this_machine(files):
    with zipfile.ZipFile(files / "a.pt2") as archive:
        assert not [name for name in archive.namelist() if REPOSITORY.encode() in archive.read(name)]


@pytest.mark.parametrize("form", [torchscript, pt2])
def test_what_does_not_agree_is_refused_and_an_older_file_stays(source, tmp_path, monkeypatch, form):
    (tmp_path / "out").write_text("of yesterday")
    monkeypatch.setattr(source_module, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="and was removed"):
        form.write(source, tmp_path / "out", normalize=False)
    assert [place.name for place in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text() == "of yesterday"
