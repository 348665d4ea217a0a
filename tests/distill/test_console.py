"""What is printed into a file or a pipe."""

from distill.console import Console


def test_a_table_in_a_pipe_has_no_blanks_behind_its_rows(capsys):
    Console().summary("a run", [("teacher", "resnet50"), ("loss [hard]", "1 × HardTargets of the distillation token")])
    said = capsys.readouterr().out
    assert said.splitlines() == [
        "a run",
        " teacher      resnet50",
        " loss [hard]  1 × HardTargets of the distillation token",
    ]
    assert said.endswith("token\n")


def test_other_processes_are_silent(capsys):
    Console(main=False).summary("a run", [("teacher", "resnet50")])
    assert capsys.readouterr().out == ""
