"""What a figure was measured on: the processor, the cores, and the code with its version and commit."""

from __future__ import annotations

import platform
import subprocess
import sys
from contextlib import suppress
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("distill-vision", "torch", "torchvision", "timm", "torchdistill", "accelerate", "onnxruntime")


def machine() -> dict[str, str | int]:
    """The processor's name, how many of its cores this process may use, the system and Python."""
    from distill.loader import cores  # which needs torch

    return {"cpu": cpu(), "cores": cores(), "system": platform.platform(), "python": platform.python_version()}


def cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as Linux or else Python knows it; the architecture where neither does."""
    with suppress(OSError):
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return " ".join(value.split())
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of distill and of what it computes with, as far as they are installed."""
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def commit(folder: Path = Path(__file__).parents[2]) -> str | None:
    """The commit of the checkout in this folder, with "+changes" where files differ from it; None if it is none."""
    if not (folder / ".git").exists():
        return None

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + "+changes" * bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):  # no git, or one that does not trust the folder
        return None


def provenance(module: str) -> dict[str, object]:
    """What stands beside the figures of `python -m module` in its JSON: command, date, code, machine."""
    command = ["python", "-m", module, *sys.argv[1:]]
    where = {"commit": commit(), "machine": machine(), "versions": versions()}
    return {"command": command, "date": date.today().isoformat(), **where}
