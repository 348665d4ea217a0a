"""A whole comparison, from what is named to the files: the same figures by one process and by two."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import students
from distill import Arrays
from distill.compare.carry_out import carry_out
from distill.compare.command import Compare
from distill.compare.curves import MOST, curves
from distill.compare.seen import seen, spread
from distill.compare.terms import Terms
from students.preprocess import Preprocess
from teachers import Teacher
from teachers.head import Head

MODEL = {
    "key", "role", "name", "source", "run", "alone", "teacher", "params", "images", "img_size", "top1", "top1_interval",
    "top5", "top5_interval", "nll", "agreement", "kl", "kept", "over_alone", "per_class", "mcnemar", "fidelity",
    "calibration", "confusion", "robustness", "uncorrupted_top1", "cost", "disagreements",
}  # fmt: skip


def compare(out, *models, **options):
    carry_out(Compare(models=tuple(map(str, models)), out=out, threads=1, **options))
    return json.loads((out / "report.json").read_text(), parse_constant=pytest.fail)


def decisions(student, images):
    model = students.load(student)
    x = torch.from_numpy(images).unsqueeze(1)
    with torch.no_grad():
        return model(Preprocess((28, 28), model.config.input_mean, model.config.input_std)(x)).argmax(1).numpy()


def test_runs_of_different_teachers_and_views_are_compared_with_a_folder_and_a_file(
    make_run, make_onnx, tmp_path, tiny_images, tiny_teacher
):
    taught = make_run("taught", seed=1)
    alone = make_run("alone", seed=2, alone=True)
    other_teacher = make_run("other", seed=4)
    students.save(students.load(tiny_teacher), tmp_path / "second")
    recipe = json.loads((other_teacher / "recipe.json").read_text())
    recipe["teacher"]["name"] = str(tmp_path / "second")
    recipe["views"]["crop_pct"] = 0.9
    (other_teacher / "recipe.json").write_text(json.dumps(recipe))
    file = make_onnx(np.random.default_rng(0).normal(size=(3, 10)), img_size=[4, 4], mean=[0.5] * 3, std=[0.5] * 3)

    out = tmp_path / "out"
    named = (taught, alone, other_teacher, taught / "student", file)
    report = compare(out, *named, cost=False, corruptions=True, corruption_images=8)
    models = {model["key"]: model for model in report["models"]}
    assert [model["role"] for model in report["models"]] == [
        "teacher", "teacher", "student", "baseline", "student", "model", "model",
    ]  # fmt: skip
    assert all(set(model) == MODEL for model in report["models"])
    assert report["schema"] == 1
    assert report["reference"] == "tiny"
    about = report["data"]
    assert (about["name"], about["images"], about["labelled"], about["corrupted"]) == ("tiny", 200, 200, 8)
    assert about["classes"][9] == "Ankle boot"

    with np.load(tiny_images) as whole:
        images, labels = whole["val_images"], whole["val_labels"]
    own, reference = decisions(taught / "student", images), decisions(tiny_teacher, images)
    student, teacher = models["taught"], models["tiny"]
    assert student["top1"] == (own == labels).mean()
    assert teacher["top1"] == (reference == labels).mean()
    assert student["agreement"] == (own == reference).mean()
    assert student["kept"] == pytest.approx(student["top1"] / teacher["top1"])
    baseline = next(model for model in report["models"] if model["role"] == "baseline")
    assert student["over_alone"] == student["top1"] - baseline["top1"]
    assert baseline["over_alone"] is None
    assert (student["teacher"], models["other"]["teacher"], student["alone"]) == ("tiny", "second", str(alone))
    assert models["other"]["kept"] == pytest.approx(models["other"]["top1"] / models["second"]["top1"])
    assert models["second"]["agreement"] < 1  # the same weights, but on other views
    # The student's folder is the run's student.
    folder = models["taught/student"]
    assert [folder[name] for name in ("top1", "top5", "agreement", "params")] == [
        student[name] for name in ("top1", "top5", "agreement", "params")
    ]
    assert folder["mcnemar"] == student["mcnemar"]

    cka = student["fidelity"]["cka"]
    assert (cka["layers"], cka["reference_layers"], np.shape(cka["values"])) == ([0, 1], [0, 1], (2, 2))
    assert models[file.name]["fidelity"]["cka"] is None
    assert {name: len(shares) for name, shares in student["robustness"].items()} == dict.fromkeys(
        ("gaussian noise", "gaussian blur", "brightness", "contrast", "jpeg", "pixelate"), 5
    )
    entry = student["disagreements"][0]
    assert own[entry["index"]] == entry["top5"][0][0] != entry["reference_top5"][0][0] == reference[entry["index"]]
    assert labels[entry["index"]] == entry["label"]
    page = (out / "report.md").read_text()
    assert "taught is " in page
    assert "the same student, data and budget without a teacher." in page


def test_two_processes_agree_with_one_and_another_reference_is_taken(make_run, tmp_path):
    run, alone = make_run("run", seed=1), make_run("alone", seed=2, alone=True)
    options = ("--no-cost", "--images", "101", "--threads", "1", "--against", "alone")
    one = compare(tmp_path / "one", run, alone, cost=False, images=101, against="alone")
    assert (one["reference"], one["data"]["images"]) == ("alone", 101)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "distill", "compare", str(run), str(alone), *options, "--out", "two"],
        cwd=tmp_path, env=os.environ | {"DISTILL_CACHE": str(tmp_path / "cache")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two" / "report.json").read_text())
    for a, b in zip(one["models"], two["models"], strict=True):
        cka = [(m["fidelity"] or {}).pop("cka", None) for m in (a, b)]
        ours, theirs = flat(a), flat(b)
        assert ours.keys() == theirs.keys()
        for place, value in ours.items():
            number = isinstance(value, float)
            assert theirs[place] == (pytest.approx(value, rel=1e-6) if number else value), place
        if cka[0]:  # its batches are others
            assert np.allclose(cka[0]["values"], cka[1]["values"], atol=0.05)
    assert done.stdout.count("the same student, data and budget") == 1


def flat(value, path=""):
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, (list, tuple)):
        return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{path}/{i}").items()}
    return {path: value}


def test_images_without_labels_are_compared_by_agreement(make_run, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(6):
        Image.effect_noise((28, 28), 20 + 30 * number).save(photos / f"{number}.png")
    run, alone = make_run("run", seed=1), make_run("alone", seed=2, alone=True)
    report = compare(tmp_path / "out", run, alone, data=photos, cost=False, corruptions=True)
    student = report["models"][1]
    assert report["data"]["labelled"] == report["data"]["corrupted"] == 0
    assert [student[name] for name in ("top1", "nll", "calibration", "mcnemar", "robustness", "kept")] == [None] * 6
    assert student["agreement"] * 6 == pytest.approx(round(student["agreement"] * 6))
    assert all(entry["label"] is None for entry in student["disagreements"])
    files = {entry["index"]: entry["file"] for entry in student["disagreements"]}
    assert files
    assert files == {index: f"{index}.png" for index in files}


def test_cost_is_measured_of_every_model(make_run, make_onnx, tmp_path, tiny_teacher):
    run = make_run("taught", teacher=Teacher(name=str(tiny_teacher), runtime="eager", head="fit"))
    head = Head(torch.zeros(10, 24), torch.zeros(10), l2=1, heldout_top1=0, heldout_nll=0)
    head.save(run / "teacher_head.safetensors")
    file = make_onnx(np.ones((3, 10)), img_size=[4, 4], mean=[0.5] * 3, std=[0.5] * 3)
    report = compare(tmp_path / "out", run, file, images=4, cka_images=0)
    teacher, student, onnx = (model["cost"] for model in report["models"])
    assert teacher["file_bytes"] == (tiny_teacher / "model.safetensors").stat().st_size
    for cost in (student, onnx):
        for times in (cost["latency_ms"], cost["throughput"]):
            assert 0 < times["low"] <= times["median"] <= times["high"]
        assert (cost["threads"], cost["device"]) == (1, "cpu")
        assert 3 <= cost["rounds"] <= 5
    assert student["file_bytes"] == (run / "student" / "model.safetensors").stat().st_size
    assert onnx["file_bytes"] == file.stat().st_size
    assert (student["macs"] > 10_000, onnx["macs"]) == (True, None)
    assert student["peak_bytes"] > 2 * 64 * 17 * 4 * 16 * 4  # before and behind the GELU, of 17 tokens of 4 × 16
    assert onnx["peak_bytes"] >= 0


def test_one_model_alone_has_nothing_to_be_compared_with(make_run, tmp_path):
    report = compare(tmp_path / "out", make_run("alone", alone=True), cost=False)
    (model,) = report["models"]
    assert (report["reference"], model["fidelity"], model["mcnemar"], model["confusion"]) == (None, None, None, None)
    assert model["kept"] is None
    assert model["calibration"]["after"]["nll"] > 0
    assert model["calibration"]["note"].startswith(f"T comes from {report['data']['labelled']} labelled images")


def test_options_out_of_range_are_refused():
    for name in ("images", "corruption_images", "threads"):
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} is 0; use 1 or more"):
            replace(Compare(models=("x",)), **{name: 0}).check()


def test_every_image_is_seen_once_on_the_terms_of_each(tiny_images):
    images = Arrays(path=str(tiny_images)).val()
    terms = [Terms((8, 8), 1), Terms((12, 12), 3), Terms((8, 8), 1)]
    shares = [list(seen(images, terms, indices=range(130), process=p, processes=2)) for p in range(2)]
    index = [i for share in shares for batch in share for i in batch.index.tolist()]
    assert sorted(index) == list(range(130))
    assert [len(batch.index) for batch in shares[0]] == [64, 1]
    batch = shares[1][0]
    assert {tuple(view.shape) for view in batch.views.values()} == {(64, 1, 8, 8), (64, 3, 12, 12)}
    assert torch.equal(batch.views[terms[1]][3], terms[1](images[7][0]))
    assert batch.labels is not None
    assert batch.labels[3] == images[7][1]


def test_images_are_spread_evenly():
    assert spread(10, 4) == [0, 2, 5, 7]
    assert list(spread(10, None)) == list(spread(10, 10)) == list(spread(10, 99)) == list(range(10))


def test_curves_are_read_and_thinned(tmp_path):
    lines = [{"step": s, "epoch": s / 500, "loss": 3.0 / s, "loss/soft": 1.0, "lr": 0.1} for s in range(1, 1001)]
    lines += [{"step": 1000, "epoch": 2, "val/top1": 0.5, "val/nll": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 1001, "lo')
    found = curves(tmp_path, "student")
    assert found is not None
    assert (found["role"], found["val"]) == ("student", [[2, 0.5]])
    assert set(found["losses"]) == {"loss", "soft"}
    series = found["losses"]["loss"]
    assert (len(series), series[0], series[-1]) == (MOST, [1, 3.0], [1000, 0.003])
    assert curves(tmp_path / "none", "student") is None
