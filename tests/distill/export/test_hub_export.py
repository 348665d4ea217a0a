"""A folder for the hub: timm loads it, its card is true and escaped, and it is uploaded only when that is asked for."""

import base64
import json
import re
import shutil
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import ModelCard, constants

from distill.export import hub
from distill.export import timm as timm_export
from distill.export.card import card, text
from distill.export.command import Export


@pytest.fixture
def home(run, tmp_path, monkeypatch):
    """An empty working directory, and nobody logged in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    return tmp_path


def exported(run, **options) -> Any:
    Export(student=run, to="hub", **options)()
    return ModelCard.load("exports/a_student-hub/README.md")


@pytest.mark.parametrize("form", ["timm", "hub"])
def test_timm_loads_the_folder_and_gives_the_students_answers(home, run, source, classes, form, capsys):
    Export(student=run, to=form, out=home / "out")()
    images = torch.randn(3, 1, 28, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model: Any = timm.create_model(f"local-dir:{home / 'out'}", pretrained=True).eval()
        torch.testing.assert_close(model(images), source.student(images), atol=1e-5, rtol=1e-5)
    assert model.pretrained_cfg["label_names"] == list(classes)
    assert (model.pretrained_cfg["crop_pct"], model.pretrained_cfg["interpolation"]) == (0.9, "bilinear")
    assert "equal to the student" in capsys.readouterr().out


def test_the_card_has_the_figures_of_the_report_and_the_licence_that_was_given(home, run):
    page = exported(run, license="other", license_name="mine", license_link="LICENSE", datasets=("org/clothes",))
    data = page.data
    assert (data.license, data["license_name"], data["license_link"]) == ("other", "mine", "LICENSE")
    assert (data.library_name, data.datasets, data["teacher"]) == ("timm", ["org/clothes"], ["the | teacher"])
    assert data.base_model is None
    assert data.model_name == "a_student"
    assert [(r.metric_name, r.metric_value, r.dataset_name) for r in data.eval_results] == [
        ("top-1 accuracy", 0.6125, "org/clothes"),
        ("top-5 accuracy", 0.9, "org/clothes"),
    ]
    assert "| student | a\\_student | 61.25 [54.0, 68.0] | 90.00 [85.0, 94.0] | – | 76.56 | 0.02 M |" in page.text
    assert "| soft | 1.0 | SoftTargets |" in page.text
    assert "| labels | 0.25 | CrossEntropy |" in page.text
    assert "3 epochs, batch size 64" in page.text
    recipe = json.loads(re.findall(r"```json\n(.*?)```", page.text, flags=re.DOTALL)[0])
    assert recipe["data"]["path"] == "tiny.npz"
    assert recipe["teacher"]["name"] == "the | teacher"


def test_the_card_tells_no_path_of_the_machine_and_no_name_is_layout(home, run):
    page = exported(run, push=None)
    whole = (home / "exports" / "a_student-hub" / "README.md").read_text()
    assert str(run.parent) not in whole
    assert "home of somebody" not in whole
    assert "T-shirt\\|top, &lt;b&gt;Trouser&lt;/b&gt;, Pull\\`over" in page.text
    assert "\\[Sandal\\], Shirt, \\*Sneaker\\*, Bag, 靴." in page.text
    assert page.data.datasets == ["tiny"]
    assert text("a\n---\nb") == "a --- b"


def test_without_licence_or_report_the_command_and_the_card_say_so(home, run, capsys):
    shutil.copytree(run, home / "a_student", ignore=shutil.ignore_patterns("report.json"))
    page = exported(home / "a_student")
    said = " ".join(capsys.readouterr().out.split())
    assert "no licence is stated; give one with --license" in said
    assert "the card has no figures" in said
    assert page.data.license is None
    assert page.data.eval_results is None
    assert "this student: not stated; ask before you use it" in page.text


def test_a_dry_run_says_what_would_be_uploaded_and_writes_nothing(home, run, capsys):
    Export(student=run, to="hub", push="org/name", private=True, dry_run=True)()
    said = capsys.readouterr().out
    assert "would be uploaded to org/name (private, if it is new)" in said
    weights = (run / "student" / "model.safetensors").stat().st_size
    assert re.search(rf"model\.safetensors +{weights / 1e3:.1f} kB", said)
    assert all(name in said for name in ("README.md", "config.json", "together"))
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("repo", "says"),
    [("org/name", "nobody is logged in"), ("name", "names no owner"), ("a/b/c", "is no name of a repository")],
)
def test_a_push_that_cannot_be_is_refused_before_anything_is_written(home, run, repo, says):
    with pytest.raises(ValueError, match=says):
        Export(student=run, to="hub", push=repo)()
    assert not (home / "exports").exists()


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload asks for. It remembers what it was told."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        pass

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def do_POST(self):
        server, body = self.server, self._body()
        server.told.append((self.path, body, self.headers["authorization"]))  # pyright: ignore[reportAttributeAccessIssue]
        address = f"http://127.0.0.1:{self.server.server_port}/org/name"  # pyright: ignore[reportAttributeAccessIssue]
        answer = {"url": address, "commitOid": "0" * 40, "commitUrl": f"{address}/commit/0", "success": True}
        answer["id"] = "org/name"  # which huggingface_hub 0.34 asks for
        if "preupload" in self.path:
            files = json.loads(body)["files"]
            answer = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        sent = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    do_GET = do_POST


@pytest.fixture
def hub_server(home, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.told = []  # pyright: ignore[reportAttributeAccessIssue]
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_a_secret")
    yield server
    server.shutdown()
    server.server_close()


def test_a_push_sends_the_files_of_the_folder_and_does_not_print_the_token(home, run, hub_server, capsys):
    (home / "out").mkdir()
    (home / "out" / "README.md").write_text("of an earlier export")
    Export(student=run, to="hub", out=home / "out", push="org/name", private=True)()
    said = capsys.readouterr()
    assert f"uploaded: {constants.ENDPOINT}/org/name/commit/0" in " ".join(said.out.split())
    assert "hf_a_secret" not in said.out + said.err
    told = {path: body for path, body, _ in hub_server.told}
    created = json.loads(told["/api/repos/create"])
    assert (created["organization"], created["name"]) == ("org", "name")
    assert created.get("visibility") == "private" or created.get("private") is True
    lines = [json.loads(line) for line in told["/api/models/org/name/commit/main"].splitlines()]
    sent = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
    }
    assert sent == {name: (home / "out" / name).read_bytes() for name in hub.FILES}
    assert b'"hf-hub:org/name"' in sent["README.md"]


def test_a_hub_that_cannot_be_reached_is_one_line(home, run, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="was written, but the hub did not take it as org/name") as error:
        hub.push(home, "org/name", private=False)
    assert "\n" not in str(error.value)


def test_a_folder_with_other_things_is_not_written_into(home, run, source):
    (home / "out").mkdir()
    (home / "out" / "thesis.tex").write_text("")
    for form in ("timm", "hub"):
        with pytest.raises(ValueError, match=r"holds thesis\.tex, which is no export of ours"):
            Export(student=run, to=form, out=home / "out")()
    with pytest.raises(ValueError, match=r"thesis\.tex is a file; name a folder with --out"):
        Export(student=run, to="timm", out=home / "out" / "thesis.tex")()
    other = replace(source, student=replace(source.student.config, qk_scale=0.5).build().eval())
    with pytest.raises(ValueError, match=r"timm has no words for .* use --to onnx or pt2"):
        timm_export.write(other, home / "new")
    assert not (home / "new").exists()


def test_the_card_of_many_classes_stays_short_and_none_have_no_list(source):
    many = tuple(f"class {n}" for n in range(1200))
    facts = hub.gather(source, license=None, license_name=None, license_link=None, datasets=(), repo=None)
    told = replace(source.preparation, num_classes=1200, label_names=many)
    page = card(replace(source, preparation=told), facts)
    assert "Its 1,200 classes: class 0, class 1," in page
    assert "class 19, … 1,180 more in config.json." in page
    assert "class 20" not in page
    nameless = card(replace(source, preparation=replace(told, label_names=())), facts)
    assert "Its 1,200 classes have no names in config.json." in nameless
    headless = card(replace(source, preparation=replace(told, num_classes=0, label_names=())), facts)
    assert "It has no head and answers with its embedding." in headless


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"to": "timm", "int8": True}, "--int8 is for --to onnx, not timm"),
        ({"to": "onnx", "license": "mit"}, "--license is for --to hub, not onnx"),
        ({"to": "hub", "normalize": True}, "--normalize is for --to onnx or torchscript or pt2, not hub"),
        ({"to": "hub", "license": "mit", "license_name": "x"}, "are for --license other, not mit"),
        ({"to": "hub", "license_link": "x"}, "are for --license other, which is not given"),
        ({"to": "hub", "license": "other"}, "--license other has no name; give --license-name NAME"),
        ({"to": "hub", "license": "Apache2.0"}, r"is none that the hub knows; did you mean apache-2.0"),
        ({"to": "hub", "license": "cc-by-4"}, r"did you mean cc-by-4.0 or "),
        ({"to": "hub", "license": "zzz"}, r"knows; for any other use --license other --license-name NAME"),
    ],
)
def test_an_option_of_another_format_is_an_error_and_not_ignored(run, options, says):
    with pytest.raises(ValueError, match=says):
        Export(student=run, **options)()
