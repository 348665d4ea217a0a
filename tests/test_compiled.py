"""Compiling and mixed precision in the real loop: what is computed and every name stay, and what cannot be is said."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SHORT = ("--optim.epochs", "2", "--log-every-steps", "1", "--workers", "0", "--threads", "1")
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "model.safetensors")


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def assert_alike(one: Path, other: Path) -> None:
    assert losses(one) == pytest.approx(losses(other), abs=1e-4)
    assert weights(one).keys() == weights(other).keys()
    for name, weight in weights(one).items():
        assert torch.allclose(weight, weights(other)[name], atol=1e-4), name


@pytest.mark.slow
def test_compiled_and_bf16_runs_against_the_plain_one(world):
    plain, compiled, bf16 = (world.folder / name for name in ("plain", "compiled", "bf16"))
    assert world.run("--out", str(plain), *SHORT).returncode == 0

    # Two processes, with a last partial batch (4 of 100 images in validation), and a resume. aot_eager has all of the
    # compiler but the C++ that it writes, which takes half a minute.
    options = ("--out", str(compiled), *SHORT, "--checkpoint-every-steps", "15")
    for begins in ("", "resumed after step 15 of 20"):
        done = world.run(*options, launcher=TWO_PROCESSES, ACCELERATE_DYNAMO_BACKEND="aot_eager")
        assert done.returncode == 0, done.stderr
        assert "the student's blocks are compiled at their first step" in done.stdout
        assert begins in done.stdout
        assert_alike(plain, compiled)
        names = load_file(compiled / "checkpoints" / "step_000000020" / "model.safetensors").keys()
        assert names == load_file(plain / "checkpoints" / "step_000000020" / "model.safetensors").keys()
        (compiled / "report.json").unlink()
        shutil.rmtree(compiled / "checkpoints" / "step_000000020")

    done = world.run("--out", str(bf16), *SHORT, ACCELERATE_MIXED_PRECISION="bf16")
    assert done.returncode == 0, done.stderr
    assert "cpu, mixed precision bf16" in done.stdout
    assert losses(bf16) != losses(plain)
    assert losses(bf16) == pytest.approx(losses(plain), rel=0.02)  # bf16 has 8 bits: steps of 0.4 %
    assert {weight.dtype for weight in weights(bf16).values()} == {torch.float32}
    assert sum(len(w.unique()) for w in weights(bf16).values()) > 2000  # no more than 256 lie between two powers of 2


@pytest.mark.slow
def test_inductor_gives_the_plain_run(world):
    plain, compiled = world.folder / "plain", world.folder / "compiled"
    teacher = ("--teacher.runtime", "inductor")
    assert world.run("--out", str(plain), *SHORT).returncode == 0
    done = world.run("--out", str(compiled), *SHORT, *teacher, "--compile")
    assert done.returncode == 0, done.stderr
    assert "teacher runs on inductor" in done.stdout
    assert_alike(plain, compiled)


def test_fp16_on_a_cpu_is_refused_in_a_line(world):
    done = world.run(ACCELERATE_MIXED_PRECISION="fp16")
    assert done.returncode == 2
    assert (
        "fp16 needs a GPU and the run is on the CPU; use --mixed_precision no" in done.stderr.strip().splitlines()[-1]
    )
    assert "Traceback" not in done.stderr
