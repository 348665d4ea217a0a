"""The declared dependencies: known vulnerabilities, and the tests with the lowest versions: python -m tests.supply."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDED = "pip install 'distill-vision[supply]'"


def resolved(resolution: str, file: Path) -> Path:
    """Write the versions that pyproject.toml's ranges and extras give: "highest", or "lowest-direct".

    lowest-direct: the lowest of what is declared, beside the highest of what that needs in turn, as old bounds of
    packages that nobody here chose say little.
    """
    _do(
        "uv", "pip", "compile", "--quiet", "--resolution", resolution, "pyproject.toml", "--extra", "dev",
        "--no-annotate", "--no-header", "-o", str(file),
    )  # fmt: skip
    return file


def audit() -> int:
    """Ask for known vulnerabilities of the lowest and the highest versions; not 0 if there is one, or no answer."""
    with tempfile.TemporaryDirectory() as folder:
        code = 0
        for resolution in ("lowest-direct", "highest"):
            print(f"{resolution}:", flush=True)
            file = resolved(resolution, Path(folder) / f"{resolution}.txt")
            # strict: a package of which nothing could be found out is no package without vulnerabilities.
            code |= _run("pip-audit", "--strict", "--no-deps", "--disable-pip", "-r", str(file))
        return code


def lowest(place: Path, tests: list[str]) -> int:
    """Make a virtual environment of the lowest versions at `place` (5.5 GB) and run the tests, or some, in it."""
    python = place / "bin" / "python"
    if not python.exists():
        _do("uv", "venv", "--quiet", str(place))
    file = resolved("lowest-direct", place / "lowest.txt")
    _do("uv", "pip", "install", "--quiet", "--python", str(python), "-r", str(file))
    _do("uv", "pip", "install", "--quiet", "--python", str(python), "--no-deps", "-e", ".")
    environment = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run([str(python), "-m", "pytest", *tests], cwd=ROOT, env=environment).returncode


def _do(*command: str) -> None:
    if code := _run(*command):
        sys.exit(code)


def _run(*command: str) -> int:
    try:
        return subprocess.run(command, cwd=ROOT).returncode
    except FileNotFoundError:
        print(f"error: {command[0]} is not installed; {NEEDED}", file=sys.stderr)
        return 2


def main() -> None:
    """Which of the two is done."""
    parser = argparse.ArgumentParser(prog="python -m tests.supply", description=__doc__)
    parser.add_argument("what", choices=("audit", "lowest"))
    parser.add_argument("--venv", type=Path, default=Path(".venv-lowest"), help="lowest: where the environment is made")
    options, tests = parser.parse_known_args()
    sys.exit(audit() if options.what == "audit" else lowest(options.venv.absolute(), tests))


if __name__ == "__main__":
    main()
