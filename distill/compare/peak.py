"""The most memory that a forward holds at once, beside weights and input."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FRESH = """
import re, sys
import numpy, onnxruntime

def resident(word):
    return 1024 * int(re.search(word + r":\\s*(\\d+) kB", open("/proc/self/status").read())[1])

file, threads, *shape = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = int(threads), 3
session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
images = session.get_inputs()[0]
shape = [int(side) for side in shape]
if isinstance(images.shape[0], int):
    shape[0] = images.shape[0]
x = numpy.full(shape, 0.5, numpy.float32)
open("/proc/self/clear_refs", "w").write("5")  # from here on the highest is that of the forward
before = resident("VmRSS")
session.run(None, {images.name: x})
print(resident("VmHWM") - before)
"""
"""A process that does nothing but one forward. Its own highest memory, for rusage's begins with that of its parent."""


def peak_bytes(forward: Callable[[Tensor], Any], x: Tensor) -> int | None:
    """Bytes that torch's allocator holds at most within a forward of x, less those before it; None where it is silent.

    On a CUDA GPU the allocator counts them itself; on a CPU its every allocation and release is recorded. Both are the
    same at every call. What a library takes past the allocator is in neither.
    """
    forward(x)  # what is made once, such as a kernel's plan, is no part of a forward
    if x.device.type == "cuda":
        return _on_cuda(forward, x)
    return _on_cpu(forward, x) if x.device.type == "cpu" else None


def peak_bytes_of_onnx(file: Path, shape: tuple[int, ...]) -> int | None:
    """By how much one forward of images of that shape raises the resident memory of a process that does nothing else.

    A file of a fixed batch is given as many as it takes. Pages that onnxruntime keeps for the next forward count.
    None where /proc does not say it, or the file does not run.
    """
    arguments = [str(file), str(torch.get_num_threads()), *map(str, shape)]
    done = subprocess.run([sys.executable, "-c", _FRESH, *arguments], capture_output=True, text=True)
    return int(done.stdout) if done.returncode == 0 else None


def _on_cuda(forward: Callable[[Tensor], Any], x: Tensor) -> int:
    torch.cuda.synchronize(x.device)
    before = torch.cuda.memory_allocated(x.device)
    torch.cuda.reset_peak_memory_stats(x.device)
    forward(x)
    torch.cuda.synchronize(x.device)
    return torch.cuda.max_memory_allocated(x.device) - before


def _on_cpu(forward: Callable[[Tensor], Any], x: Tensor) -> int:
    from torch.autograd.profiler import profile

    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else it prints lines of its own, read by it at its first use
    recorded: Any = profile(use_kineto=False, profile_memory=True)
    with recorded:
        held = forward(x)  # alive until the record ends
    del held
    changes = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    most = now = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        now += change.nbytes()
        most = max(most, now)
    return most
