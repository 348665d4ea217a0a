"""A tiny world on disk: real images, a teacher of their classes, and a recipe script that takes seconds."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

# Before torch is imported, here and in the programs that tests start: threads that spin while they wait take the cores
# from each other where a machine has more to do than these tests, and seconds become minutes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.pop("COLUMNS", None)  # what programs print does not depend on the window that the tests run in

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Nothing is asked of the time that an example takes, as a busy machine takes any. The rest stays that of the profile
# that hypothesis itself chose, another one in CI.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

REPOSITORY = Path(__file__).parents[1]
TINY = REPOSITORY / "tests" / "tiny_recipe.py"


@dataclass(frozen=True)
class World:
    """folder: an empty working directory; data: an .npz file; teacher: a saved model that knows its classes."""

    folder: Path
    data: Path
    teacher: Path

    def command(self, *options: str, script: Path = TINY, launcher: tuple[str, ...] = ()) -> list[str]:
        """The command line of the tiny recipe."""
        where = ["--data.path", str(self.data), "--teacher.name", str(self.teacher)]
        return [sys.executable, *launcher, str(script), *where, *options]

    def run(self, *options: str, launcher: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess:
        """Run the tiny recipe to its end."""
        return subprocess.run(
            self.command(*options, launcher=launcher),
            cwd=self.folder,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=240,
        )

    def here(self, *options: str, script: Path = TINY, **environment: str) -> subprocess.CompletedProcess:
        """The same in this process, which has imported torch already, where being a process is not what is tested."""
        return self.call(*self.command(*options, script=script)[1:], **environment)

    def call(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """What `python ARGUMENTS` prints and returns, of a recipe's script or of `-m distill`, in this process."""
        import torch

        from distill import __main__, job, script

        def start() -> None:
            if arguments[:2] == ("-m", "distill"):
                __main__.main()
            else:
                job.run(script.recipe_of(Path(arguments[0])))

        argv = ["distill", *arguments[2:]] if arguments[0] == "-m" else list(arguments)
        variables = self.environment(**environment)
        threads, code = torch.get_num_threads(), 0
        with (
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(io.StringIO()) as err,
            contextlib.chdir(self.folder),
            mock.patch.dict(os.environ, variables),
            mock.patch.object(sys, "argv", argv),
        ):
            try:
                start()
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                torch.set_num_threads(threads)
        return subprocess.CompletedProcess(list(arguments), code, out.getvalue(), err.getvalue())

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a run: on the CPU, with a cache of its own."""
        return os.environ | {"DISTILL_CACHE": str(self.folder / "cache"), "ACCELERATE_USE_CPU": "true"} | more


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory) -> Path:
    """640 + 200 images of the quickstart's data."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    with np.load(REPOSITORY / "recipes" / "data" / "fashion_mnist.npz") as whole:
        parts = {name: whole[name][: 640 if "train" in name else 200] for name in whole.files if name != "classes"}
        np.savez(path, **parts, classes=whole["classes"])
    return path


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory) -> Path:
    """A small ViT of ten classes, saved: yesterday's student, untrained but far from uniform."""
    import torch

    import students

    torch.manual_seed(5)
    config = students.ViTConfig(
        img_size=28, patch_size=7, in_chans=1, embed_dim=24, depth=2, num_heads=2, num_classes=10
    )
    model = config.build()
    torch.nn.init.normal_(model.get_parameter("head.weight"), std=0.5)
    return students.save(model, tmp_path_factory.mktemp("teacher") / "tiny")


@pytest.fixture
def world(tmp_path, tiny_images, tiny_teacher) -> World:
    return World(tmp_path, tiny_images, tiny_teacher)


@pytest.fixture(scope="module")
def cpu_only():
    """accelerate takes the CPU in all of a module's tests, whatever the machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        yield
