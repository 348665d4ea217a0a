"""What a figure was measured on: the processor by name, the checkout by its commit."""

import platform
import subprocess

from distill.bench.machine import commit, cpu

CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC  7R13 Processor
"""


def test_the_processor_is_named_as_linux_names_it(tmp_path):
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    assert cpu(tmp_path / "cpuinfo") == "AMD EPYC 7R13 Processor"


def test_without_a_model_name_it_is_what_python_says(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 243.75\n")  # as on ARM
    assert cpu(tmp_path / "cpuinfo") == cpu(tmp_path / "none") == (platform.processor() or platform.machine())


def test_a_checkout_is_known_by_its_commit_and_by_its_changes(tmp_path):
    def git(*words: str) -> str:
        known = ("-c", "user.name=n", "-c", "user.email=e@x.org", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", *known, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert commit(tmp_path) is None
    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    here = git("rev-parse", "HEAD").strip()
    assert commit(tmp_path) == here
    (tmp_path / "file").write_text("two")
    assert commit(tmp_path) == f"{here}+changes"
