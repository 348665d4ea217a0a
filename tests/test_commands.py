"""`python -m distill`: a command ends as a run does, in one line, or with the traceback where that is asked for."""

import errno
import io
import sys

import pytest

from distill.__main__ import main


@pytest.fixture(autouse=True)
def _without_tracebacks(monkeypatch):
    monkeypatch.delenv("DISTILL_TRACEBACK", raising=False)


def ended(monkeypatch, capsys, *words: str) -> tuple[object, str]:
    """Exit code and stderr of a command."""
    monkeypatch.setattr(sys, "argv", ["distill", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code, capsys.readouterr().err


def test_an_error_of_a_command_is_one_line_or_a_traceback_where_that_is_asked_for(monkeypatch, capsys):
    code, said = ended(monkeypatch, capsys, "losses", "Sorft")
    assert (code, said.count("\n"), said[:7]) == (2, 1, "error: ")
    monkeypatch.setenv("DISTILL_TRACEBACK", "1")
    with pytest.raises(ValueError, match="Sorft"):
        main()


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("predict", "x", "--topk", "3"), "--top-k INT"),
        (("predict",), "MODEL"),
        (("export", "x", "--too", "onnx"), "--to {onnx,"),
        (("compar", "x"), "compare, export"),
    ],
)
def test_a_misspelt_option_is_answered_by_its_own_command(monkeypatch, capsys, words, shown):
    monkeypatch.setenv("COLUMNS", "100")
    code, said = ended(monkeypatch, capsys, *words)
    assert code == 2
    assert shown in said
    own = "python -m distill " + f"{words[0]} " * (words[0] != "compar")
    assert f"{own}--help" in said
    assert said.count("--help") == 1


class Full(io.StringIO):
    """A stdout on a disk that is full."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_what_a_disk_does_to_a_command_is_one_line_that_promises_no_checkpoint(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Full())
    assert ended(monkeypatch, capsys, "losses") == (
        1,
        "error: python -m distill losses: No space left on device; make room on that disk; "
        "what was finished stays as it is\n",
    )


def test_ctrl_c_in_a_command_is_one_line(monkeypatch, capsys, tmp_path):
    (tmp_path / "slow.py").write_text("raise KeyboardInterrupt\nrecipe = None\n")
    code, said = ended(monkeypatch, capsys, "recipes", str(tmp_path))
    assert (code, said) == (130, "stopped: interrupted; what was finished stays as it is\n")
