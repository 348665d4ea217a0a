"""Processes wait for one that works for longer than torch's timeout, and not for one that has failed."""

import os
import subprocess
import sys

import pytest

LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")

# gloo's timeout stands for NCCL's 10 minutes; the main process is at work until a collective would have given up.
PROGRAM = """
import datetime, sys, time
import torch.distributed as dist
from accelerate import Accelerator

dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=2))
from distill import failures, processes

accelerator, how = Accelerator(cpu=True), sys.argv[1]

def work(seconds=4.0):
    time.sleep(seconds)
    return "found"

with failures.in_one_line("a test"):
    if how == "from_main":
        print(processes.from_main(accelerator, work))
    elif how == "meet":
        if accelerator.is_main_process:
            work()
        processes.meet(accelerator)
        print("met")
    elif how == "fails":
        if accelerator.is_main_process:
            raise ValueError("nothing is there")
        processes.meet(accelerator)
    elif how == "disk":
        def full():
            raise OSError(28, "No space left on device", "a file")
        processes.from_main(accelerator, full)
"""


@pytest.mark.parametrize(
    ("how", "code", "out", "err"),
    [
        ("from_main", 0, "foundfound", ""),
        ("meet", 0, "metmet", ""),
        ("fails", 1, "", "error: nothing is there"),
        ("disk", 1, "", "error: a file: No space left on device; make room on that disk"),
    ],
)
def test_one_that_works_is_waited_for_and_one_that_failed_is_not(tmp_path, how, code, out, err):
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [sys.executable, *LAUNCHER, "program.py", how],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout.replace("\n", "")) == (code, out), done.stderr
    assert [line[: len(err)] for line in done.stderr.splitlines() if line.startswith("error: ")] == [err] * bool(err)
    assert "timeout" not in done.stderr
