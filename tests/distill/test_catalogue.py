"""`python -m distill losses`: the table and the pages are what the losses themselves say."""

import subprocess
import sys

import pytest
from rich.cells import cell_len
from rich.console import Console

from distill import catalogue, losses


def text(what, width=100) -> str:
    console = Console(width=width, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(what)
    return console.export_text()


def test_every_loss_of_the_plan_is_there():
    assert set(catalogue.names()) == {
        *("CrossEntropy", "SoftTargets", "HardTargets", "DKD", "DIST", "NKD", "OFA", "BCETargets", "Hint"),
        *("AttentionTransfer", "SimilarityPreserving", "RKD", "Manifold", "ViTKD", "CosineEmbedding", "CRD"),
    }


def test_the_table_has_a_row_for_each_with_its_weight_and_paper():
    shown = text(catalogue.table(160), width=160)
    for row in (
        ("AttentionTransfer", "grids", "1000", "0", "arXiv:1612.03928"),
        ("OFA", "logits, grids, labels", "1", "arXiv:2310.19444"),
        ("CRD", "embedding, images together", "0.8", "74 k", "arXiv:1910.10699"),
    ):
        (line,) = (line for line in shown.splitlines() if line.startswith(row[0]))
        assert all(cell in line for cell in row)


def test_in_a_narrow_window_no_cell_is_cut():
    shown = text(catalogue.table(60), width=60)
    assert "2310.19444" in shown
    assert all(name in shown for name in catalogue.names())
    assert max(map(cell_len, shown.splitlines())) <= 60


def test_added_parameters_by_hand():
    # From a ViT-Ti (192 wide) to a ViT-S (384): 192 · 384 + 384.
    assert catalogue.parameters(losses.Hint()) == 74_112
    assert catalogue.parameters(losses.CosineEmbedding()) == 74_112
    assert catalogue.parameters(losses.CRD()) == 192 * 128 + 128 + 384 * 128 + 128
    assert catalogue.parameters(losses.SoftTargets()) == 0


@pytest.mark.parametrize("name", catalogue.names())
@pytest.mark.parametrize("width", [60, 140])
def test_a_page_shows_every_option_and_its_meaning(name, width):
    from dataclasses import fields

    shown = text(catalogue.page(name), width=width)
    kind = getattr(losses, name)
    options = shown[shown.index("\noption ") :].splitlines()
    for option in fields(kind):
        (line,) = (line for line in options if line.startswith(f"{option.name} "))
        assert len(line.split()) >= 3  # its name, its default, the start of its meaning
    assert kind.paper.split(",")[0] in shown
    assert max(map(cell_len, shown.splitlines())) <= width


def test_an_unknown_name_is_told_the_nearest():
    done = subprocess.run([sys.executable, "-m", "distill", "losses", "of"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: there is no loss 'of'; the nearest is OFA\n"
    with pytest.raises(ValueError, match="there is no loss 'zzz'; they are CrossEntropy, BCETargets,"):
        catalogue.page("zzz")
    for typed, meant in (("sp", "SimilarityPreserving"), ("AT", "AttentionTransfer"), ("manif", "Manifold")):
        with pytest.raises(ValueError, match=f"the nearest is {meant}"):
            catalogue.page(typed)
