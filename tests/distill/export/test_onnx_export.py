"""An exported ONNX file says what the student says, at any batch size, and says how images are prepared for it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from accelerate import Accelerator

import students
from distill.compare.named import load_one
from distill.compare.onnxfile import onnx_candidate
from distill.compare.options import OnnxInput
from distill.export import onnx as onnx_export
from distill.export import source as source_module
from distill.export.command import Export
from distill.predictions import predictions
from students import ViTConfig

REPOSITORY = str(Path(__file__).parents[3])


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """Both files and what the command printed."""
    import contextlib
    import io

    out = tmp_path_factory.mktemp("exports") / "named.onnx"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        Export(student=run, to="onnx", out=out, int8=True)()
    return out, out.with_name("named.int8.onnx"), printed.getvalue()


def session(file):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_onnx_says_the_mean_of_both_heads_at_any_batch_size(exported, run, batch):
    images = torch.randn(batch, 1, 28, 20, generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        outputs = students.load(run).outputs(images)
        assert outputs.token_logits is not None
        mean = (outputs.logits + outputs.token_logits) / 2
    (logits,) = session(exported[0]).run(["logits"], {"images": images.numpy()})
    assert (outputs.logits - outputs.token_logits).abs().max() > 0.1
    np.testing.assert_allclose(np.asarray(logits), mean, atol=1e-4 * float(mean.abs().max()))


def test_metadata_says_how_images_are_prepared(exported, run):
    told = {name: json.loads(text) for name, text in session(exported[0]).get_modelmeta().custom_metadata_map.items()}
    names = json.loads((run / "student" / "config.json").read_text())["pretrained_cfg"]["label_names"]
    assert told["img_size"] == [28, 20]
    assert (told["in_chans"], told["num_classes"], told["crop_pct"], told["interpolation"]) == (1, 10, 0.9, "bilinear")
    assert (told["mean"], told["std"], told["view_size"]) == ([0.3], [0.4], None)
    assert told["label_names"] == names


def test_the_file_has_the_opset_that_is_stated_and_no_path_of_this_machine(exported):
    file, small, printed = exported
    model = onnx.load(file)
    onnx.checker.check_model(model)
    assert [entry.version for entry in model.opset_import if not entry.domain] == [18]
    assert "ONNX of opset 18 for normalised images" in " ".join(printed.split())
    for one in (file, small):
        assert REPOSITORY.encode() not in one.read_bytes()
        assert sorted(place.name for place in one.parent.iterdir()) == ["named.int8.onnx", "named.onnx"]


def test_int8_weights_are_a_quarter_and_their_accuracy_is_the_one_that_is_printed(
    exported, run, tiny_images, val_images
):
    file, small, printed = exported
    model = onnx.load(small)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MatMulInteger") == 2 * 4 + 2  # qkv, proj, fc1, fc2 of each block, and both heads
    with np.load(tiny_images) as data:
        labels = torch.from_numpy(data["val_labels"].astype(np.int64))
    pixels = transformed(run, val_images)
    parts = [pixels[start : start + 64] for start in range(0, 200, 64)]
    decided = [
        # In the batches of the command, because int8 rounds by the range of a batch.
        torch.cat([torch.from_numpy(session(one).run(None, {"images": part})[0]) for part in parts]).argmax(1)
        for one in (file, small)
    ]
    right = [int((one == labels).sum()) for one in decided]
    same = int((decided[0] == decided[1]).sum())
    scores = json.loads(onnx_metadata(small)["scores"])
    assert [round(scores[name]["top1"] * 200) for name in ("float", "int8")] == right
    assert round(scores["int8"]["agreement"] * 200) == same
    assert f"agrees with float on {100 * same / 200:.2f} %" in " ".join(printed.split())
    assert f"top-1 {100 * right[1] / 200:.2f} %" in printed


def onnx_metadata(file):
    return session(file).get_modelmeta().custom_metadata_map


def transformed(run, arrays):
    """The images normalised as the recipe's validation does: a centre crop of 0.9, by Pillow and torch alone."""
    from PIL import Image

    from distill.folder import read_recipe
    from distill.views import val_transform

    recipe = read_recipe(run)
    transform = val_transform(recipe.views, recipe.view_size, 1)
    pixels = torch.stack([transform(Image.fromarray(one)) for one in arrays]).float().numpy() / 255
    return (pixels - np.float32(0.3)) / np.float32(0.4)


def test_predictions_of_the_file_are_those_of_the_run(exported, run, val_images, tmp_path):
    from PIL import Image

    Image.fromarray(val_images[0]).save(tmp_path / "a.png")
    images, cpu, accelerator = [str(tmp_path / "a.png")], torch.device("cpu"), Accelerator(cpu=True)
    first, second = (
        next(predictions(load_one(str(place), accelerator, onnx=OnnxInput()), cpu, images, batch_size=8, top_k=10))
        for place in (run, exported[0])
    )
    assert [index for index, _, _ in first.top] == [index for index, _, _ in second.top]
    assert [p for _, p, _ in first.top] == pytest.approx([p for _, p, _ in second.top], abs=1e-5)


def test_the_python_of_the_page_on_students_runs_and_agrees(exported, run, val_images, tmp_path, monkeypatch):
    import re
    import shutil

    from PIL import Image

    page = (Path(REPOSITORY) / "docs" / "students.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "runs/quickstart")
    Path("exports").mkdir()
    shutil.copy(exported[0], "exports/quickstart.onnx")
    # Smooth and of the student's proportions, so that the page's own resizing changes little.
    Image.fromarray(val_images[0]).resize((200, 280), Image.Resampling.BICUBIC).convert("RGB").save("photo.jpg")
    model = load_one(str(run), Accelerator(cpu=True), onnx=OnnxInput())
    (seen,) = predictions(model, torch.device("cpu"), ["photo.jpg"], batch_size=1, top_k=10)
    logits = torch.tensor([logit for _, _, logit in sorted(seen.top)])
    found = []
    for block in blocks:
        names = {}
        exec(block, names)
        found.append(names)
    assert found[0]["logits"].shape == (2, 10)
    torch.testing.assert_close(found[1]["probabilities"][0], logits.softmax(0), atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.from_numpy(found[2]["logits"][0]), logits, atol=0.06, rtol=0)
    assert len(blocks) == 3


def test_with_normalize_it_takes_images_in_0_to_1_and_says_so(source, tmp_path):
    off = onnx_export.write(source, tmp_path / "n.onnx", normalize=True, opset=20)
    assert off <= 1e-4
    images = torch.rand(4, 1, 28, 20, generator=torch.Generator().manual_seed(0))
    (logits,) = session(tmp_path / "n.onnx").run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = source.student((images - 0.3) / 0.4)
    np.testing.assert_allclose(np.asarray(logits), expected, atol=1e-4 * float(expected.abs().max()))
    told = onnx_metadata(tmp_path / "n.onnx")
    assert (json.loads(told["mean"]), json.loads(told["std"])) == ([0.0], [1.0])
    assert onnx_export.opset_of(tmp_path / "n.onnx") == 20


def test_an_export_that_does_not_agree_is_refused_and_leaves_nothing(source, tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match=r"the ONNX export of .* is off by .* at batch size 1.*was removed"):
        onnx_export.write(source, tmp_path / "n.onnx", normalize=False, opset=18)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [2e-4, float("nan")])
def test_what_is_off_by_more_than_1e_4_does_not_agree(source, wrong):
    def off(x):
        logits = source.student(x)
        return logits + wrong * logits.abs().max()

    with pytest.raises(ValueError, match="over 1e-04"):
        source_module.check(off, source, "test")
    assert source_module.check(lambda x: source.student(x), source, "test") == 0


def test_weights_over_two_gigabytes_are_refused_before_the_export(source, tmp_path):
    with torch.device("meta"):
        huge = students.vit_huge()
    with pytest.raises(ValueError, match=r"take 2\.5 GB and one ONNX file holds 2; use --to pt2"):
        onnx_export.write(replace(source, student=huge), tmp_path / "n.onnx", normalize=False, opset=18)


def test_int8_without_a_run_has_nothing_to_be_measured_on(tmp_path):
    tiny = ViTConfig(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=1, num_classes=2)
    students.save(tiny.build(), tmp_path / "alone")
    with pytest.raises(ValueError, match=r"measures what it costs .* in no run folder"):
        Export(student=tmp_path / "alone", to="onnx", out=tmp_path / "a.onnx", int8=True)()
    assert not (tmp_path / "a.onnx").exists()


def test_an_older_int8_file_beside_the_new_one_is_said(run, tmp_path, capsys):
    old = tmp_path / "a.int8.onnx"
    for there in (False, True):
        if there:
            old.write_bytes(b"of before")
        Export(student=run, to="onnx", out=tmp_path / "a.onnx")()
        assert ("a.int8.onnx is of an earlier export" in " ".join(capsys.readouterr().out.split())) == there
    assert old.read_bytes() == b"of before"


def test_a_file_that_does_not_say_how_images_are_prepared_is_refused(exported, tmp_path):
    model = onnx.load(exported[0])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    for file, says in (
        ("bare", "does not say how images are normalised"),
        ("text", "cannot be read by onnxruntime"),
        ("absent", "there is no file"),
    ):
        with pytest.raises(ValueError, match=says):
            onnx_candidate(tmp_path / f"{file}.onnx", OnnxInput())


@pytest.mark.parametrize("opset", [13, 17, 99])
def test_an_opset_that_is_not_written_is_refused(opset):
    with pytest.raises(ValueError, match=rf"--opset is {opset}; use 18 to \d\d"):
        onnx_export.check_opset(opset)
