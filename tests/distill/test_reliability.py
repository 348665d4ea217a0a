"""What keeps a run whole, piece by piece; tests/torture makes the faults themselves happen."""

import errno
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

import students
from distill import checkpoint, disk, failures, folder, lock, memory, signals
from distill.finite import Agreed, refusal
from distill.loader import Layout
from distill.metrics import Metrics
from distill.views import order
from teachers import Teacher, weights
from tests.tiny_recipe import recipe

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_faults_made_to_happen_are_survived(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--short"],
        cwd=REPOSITORY, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    ((injected, survived, lost),) = re.findall(r"all +(\d+) +(\d+) +(\d+)", done.stdout)
    assert (int(survived), int(lost)) == (int(injected), 0)
    assert int(injected) >= 100


def whole_checkpoint(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "run.json").write_text('{"step": 1, "skipped": 0}')
    checkpoint._seal(path)
    return path


def test_a_checkpoint_is_believed_only_with_every_checksum(tmp_path):
    path = whole_checkpoint(tmp_path / "step_000000001")
    assert checkpoint.damage(path) is None
    checked = subprocess.run(["sha256sum", "-c", checkpoint.CHECKSUMS], cwd=path, capture_output=True)
    assert checked.returncode == 0  # the format is sha256sum's own

    (path / "model.safetensors").write_bytes(b"weightz")
    assert checkpoint.damage(path) == "model.safetensors does not match its checksum"
    (path / "model.safetensors").unlink()
    assert checkpoint.damage(path) == "model.safetensors is missing"
    text = (path / checkpoint.CHECKSUMS).read_text()
    (path / checkpoint.CHECKSUMS).write_text(text[:70])
    assert checkpoint.damage(path) == f"{checkpoint.CHECKSUMS} is cut short"
    (path / checkpoint.CHECKSUMS).unlink()
    assert checkpoint.damage(path) == f"it has no readable {checkpoint.CHECKSUMS}"


def test_files_in_folders_of_a_checkpoint_have_checksums_too(tmp_path):
    path = tmp_path / "step_000000001"
    (path / "pytorch_model").mkdir(parents=True)  # as DeepSpeed writes them
    (path / checkpoint.STATE).write_text("{}")
    (path / "pytorch_model" / "optimizer.pt").write_bytes(b"momenta")
    checkpoint._seal(path)
    assert checkpoint.damage(path) is None
    (path / "pytorch_model" / "optimizer.pt").write_bytes(b"momentum")
    assert checkpoint.damage(path) == "pytorch_model/optimizer.pt does not match its checksum"


def test_a_checksum_file_cannot_point_out_of_its_folder(tmp_path):
    path = whole_checkpoint(tmp_path / "step_000000001")
    (tmp_path / "other").write_bytes(b"weights")
    text = (path / checkpoint.CHECKSUMS).read_text().replace("model.safetensors", "../other")
    (path / checkpoint.CHECKSUMS).write_text(text)
    assert checkpoint.damage(path) == "../other is missing"


def test_the_newest_whole_checkpoint_is_used(tmp_path):
    for step in (10, 20, 30):
        whole_checkpoint(tmp_path / f"step_{step:09d}")
    (tmp_path / "step_000000030" / "model.safetensors").write_bytes(b"")
    (tmp_path / "step_000000040.partial").mkdir()
    found = checkpoint._newest_whole(tmp_path, None)
    assert (found.step, len(found.notes)) == (20, 1)
    assert "step_000000030 is skipped: model.safetensors does not match its checksum" in found.notes[0]
    assert checkpoint._newest_whole(tmp_path, 20).step == 10
    assert checkpoint._newest_whole(tmp_path / "none", None).step == 0


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "report.md"
    disk.replace_text(file, "one")

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, "flush", full)
    with pytest.raises(OSError, match="No space"):
        disk.replace_text(file, "two")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report.md", "one")]


HOLD = "import sys\nfrom pathlib import Path\nfrom distill.lock import locked\nwith locked(Path(sys.argv[1])):\n    {}"


def test_a_folder_is_held_by_one_process_and_by_none_that_is_gone(tmp_path):
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD.format("print('held', flush=True); sys.stdin.read()"), str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert held.stdout is not None
    assert held.stdout.readline() == "held\n"
    with (
        pytest.raises(ValueError, match=rf"is under way \(process {held.pid} on .*; wait for it, or choose another"),
        lock.locked(tmp_path),
    ):
        pass
    held.kill()
    held.wait()
    with lock.locked(tmp_path):
        assert json.loads((tmp_path / lock.FILE).read_text())["process"] == os.getpid()


def test_a_run_that_was_killed_as_it_began_is_begun_again(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ValueError, match="not empty and not a run folder"):
        folder.claim(tmp_path, recipe, "auto")
    (tmp_path / lock.FILE).touch()
    assert folder.claim(tmp_path, recipe, "auto") == "begin"


def test_the_first_signal_waits_for_the_step_and_a_second_ctrl_c_does_not(monkeypatch):
    reached = []
    with signals.Signals() as heard:
        with pytest.raises(signals.Interrupted) as ended, heard.deferred():  # noqa: PT012
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard.received == signal.SIGTERM
            os.kill(os.getpid(), signal.SIGINT)  # a launcher's echo
            monkeypatch.setattr(signals, "ECHO_SECONDS", 0.0)
            os.kill(os.getpid(), signal.SIGTERM)  # only Ctrl-C is impatient
            reached.append(True)
        assert reached
        assert ended.value.code == 143
        with pytest.raises(signals.Interrupted) as ended, heard.deferred():  # noqa: PT012
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("went on")
        assert ended.value.code == 130
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("goes_on", [True, False])
def test_before_training_a_signal_ends_a_run_at_once(goes_on):
    with signals.Signals(goes_on=goes_on), pytest.raises(signals.Interrupted) as ended:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGUSR1)
        pytest.fail("went on")
    assert ended.value.code == 138
    way_on = "; the same command goes on from the last checkpoint, or from the start" if goes_on else ""
    assert ended.value.text == f"SIGUSR1{way_on}"  # a rehearsal has no checkpoint


def test_what_is_not_finite_is_named():
    assert Agreed({"total": 1.0, "a": 1.0}, 2.0).broken() == []
    assert Agreed({"total": float("nan"), "a": 1.0, "b": float("inf")}, float("nan")).broken() == ["b"]
    assert Agreed({"total": float("inf"), "a": 1e38}, 1.0).broken() == ["total"]
    assert Agreed({"total": 1.0, "a": 1.0}, float("inf")).broken() == ["gradient"]
    assert Agreed({"total": 1.0, "a": 1.0}, float("inf")).broken(with_gradient=False) == []


class _Plan:
    """What refusal and more_steps read of a plan."""

    recipe = recipe
    train = range(100)

    def __init__(self, **layout: int) -> None:
        self.layout = Layout(images=100, epochs=3, **layout)


def test_the_views_of_a_step_that_is_not_taken_are_named():
    plan = _Plan(batch_size=16)  # 6 steps an epoch: step 9, counted from 1, is the third of epoch 1
    text, address = refusal(Agreed({"total": float("nan"), "a": float("nan")}), ["a"], plan, 8)  # type: ignore[arg-type]
    images = [int(i) for i in order(0, 1, 100)[32:48]]
    assert (address["epoch"], address["position"], address["images"]) == (1, 32, images)
    assert text.startswith("step 9: loss a is nan; no optimiser step was taken; its views are those of images ")
    assert f"{images[0]}, {images[1]}, {images[2]}, {images[3]} … in epoch 1" in text


def test_more_accumulation_steps_keep_the_global_batch():
    cases = {(64, 1, 1): 2, (64, 2, 1): 2, (64, 1, 32): None, (96, 2, 3): 6, (6, 1, 1): 3, (2, 1, 1): None}
    for (batch_size, processes, accumulate), expected in cases.items():
        plan = _Plan(batch_size=batch_size, processes=processes, accumulate=accumulate)
        assert memory.more_steps(plan) == expected  # type: ignore[arg-type]
    assert "64 = 2 × 2 × 16" in str(memory.advice(_Plan(batch_size=64, processes=2))).replace("is ", "= ")  # type: ignore[arg-type]


def test_changed_data_is_said(tmp_path, tiny_images):
    plan = _Plan(batch_size=16)
    plan.recipe = replace(recipe, data=replace(recipe.data, path=str(tiny_images)))  # type: ignore[type-var]
    plan.val = range(20)  # type: ignore[attr-defined]
    assert folder.note_data(tmp_path, plan) is None  # type: ignore[arg-type]
    assert folder.note_data(tmp_path, plan) is None  # type: ignore[arg-type]
    plan.train = range(103)
    assert "100 -> 103 images to train on" in str(folder.note_data(tmp_path, plan))  # type: ignore[arg-type]
    assert folder.note_data(tmp_path, plan) is None  # type: ignore[arg-type]


class _Main:
    is_main_process = True

    def log(self, values, step):
        pass


def test_metrics_past_the_checkpoint_go_and_a_torn_line_too(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 10, "loss": 1}\n{"step": 10, "val/top1": 0.5}\n{"step": 20, "loss": 1}\n{"step": 2')
    metrics = Metrics(file, 10, _Main())  # type: ignore[arg-type]
    assert file.read_text() == '{"step": 10, "loss": 1}\n{"step": 10, "val/top1": 0.5}\n'
    assert (metrics.scored(10), metrics.scored(20)) == (True, False)


def test_what_a_disk_and_a_loader_do_is_one_line():
    full = failures.described(OSError(errno.ENOSPC, "No space left on device"), "runs/x")
    assert full == (f"runs/x: No space left on device; make room on that disk; {failures.GO_ON}", 1)
    killed = failures.described(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "")
    assert killed is not None
    assert killed[0].startswith("a loader process was killed")
    caught = "Caught FileNotFoundError in DataLoader worker process 0.\nTraceback …\nFileNotFoundError: [Errno 2] gone"
    assert failures.described(FileNotFoundError(caught), "runs/x") == (
        f"runs/x: FileNotFoundError: [Errno 2] gone; {failures.GO_ON}",
        1,
    )
    assert failures.described(KeyError("ours"), "") is None


class Ignored:
    """An object whose end fails, which Python ignores and prints."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __del__(self) -> None:
        raise self.error


def test_python_prints_nothing_of_a_lost_loader_that_it_ignores(monkeypatch):
    printed = []
    monkeypatch.delenv("DISTILL_TRACEBACK", raising=False)
    monkeypatch.setattr(sys, "unraisablehook", lambda said: printed.append(str(said.exc_value)))
    for _ in range(2):  # a run enters twice
        with failures.in_one_line(""):
            Ignored(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))
            object.__new__(_MultiProcessingDataLoaderIter)  # ends without what its constructor makes
            Ignored(RuntimeError("another"))
            Ignored(AttributeError("ours"))
    assert printed == ["another", "ours"] * 2


class Runs:
    """A pickle that makes a folder."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("how", ["torch.save", "pickle"])
def test_a_malicious_teacher_is_refused_and_its_code_does_not_run(tmp_path, tiny_teacher, how):
    marker, file = tmp_path / "ran", tmp_path / "teacher.pth"
    value = {"state_dict": Runs(str(marker))}
    torch.save(value, file) if how == "torch.save" else file.write_bytes(pickle.dumps(value))
    with pytest.raises(ValueError, match="cannot be read as weights"):
        weights.read(file)

    # The same as a timm folder whose weights are not safetensors.
    local = tmp_path / "local"
    local.mkdir()
    (local / "config.json").write_text(json.dumps({"architecture": "resnet10t", "num_classes": 10}))
    (local / "pytorch_model.bin").write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="cannot be had"):
        Teacher(name=str(local), runtime="eager").build()
    assert not marker.exists()
    students.load(tiny_teacher)


def test_a_truncated_teacher_is_one_line(tmp_path, tiny_teacher):
    local = tmp_path / "cut"
    local.mkdir()
    for file in tiny_teacher.iterdir():
        data = file.read_bytes()
        (local / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)
    with pytest.raises(ValueError, match="cut") as refused:
        Teacher(name=str(local), runtime="eager").build()
    assert "\n" not in str(refused.value)
    assert str(local) in str(refused.value)


def test_a_folder_that_another_host_does_not_see_ends_the_run_before_it_trains(tmp_path):
    with pytest.raises(ValueError, match=r"the run folder .* on .* is not the main process's, "):
        folder.wait_to_see(tmp_path, patience=0.0)
    (tmp_path / "recipe.json").touch()
    folder.wait_to_see(tmp_path, patience=0.0)


def test_memory_that_runs_out_of_a_gpu_is_one_line():
    said = failures.described(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"))
    assert said == (
        "the GPU's memory does not suffice (CUDA out of memory); ask for fewer images at once",
        failures.FAILED,
    )


def test_a_checkpoint_without_a_loss_scaler_is_not_said_to_be_broken(tmp_path):
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(torch.nn.Linear(2, 2))
    checkpoint.save(accelerator, tmp_path / "checkpoints", 1)
    assert checkpoint.load(accelerator, tmp_path / "checkpoints").step == 1
    accelerator.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(ValueError, match=r"was written without the loss scaler .* use the precision that it was"):
        checkpoint.load(accelerator, tmp_path / "checkpoints")
    del model
