"""A head fitted chunk by chunk from files is the head that is fitted in memory."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from teachers import features as feature_files
from teachers.calibration import fit_temperature
from teachers.features import FeatureFile, Features
from teachers.head import Head, fit_head, held_out
from teachers.streamed import fit_streamed

CPU = torch.device("cpu")
CLASSES, WIDTH = 4, 12


def data(rows: int = 1500) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(CLASSES, WIDTH, generator=generator)
    labels = torch.randint(CLASSES, (rows,), generator=generator)
    x = means[labels] + torch.randn(rows, WIDTH, generator=generator)
    x = x * torch.logspace(-1, 1, WIDTH) + 2
    return x.half().float(), labels  # what a float16 file holds, so that both fits see equal numbers


def write(folder: Path, views: list[Tensor], labels: Tensor, held: Tensor) -> Features:
    paths = []
    for number, view in enumerate(views):
        paths.append(folder / f"view_{number}.npy")
        file = FeatureFile(paths[-1], *view.shape)
        for part in view.split(400):
            file.append(part)
        file.close()
    return Features.open(paths, labels, held)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_files, "CHUNK_ROWS", 128)


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_it_agrees_with_the_head_fitted_in_memory(tmp_path: Path, l2: float) -> None:
    x, labels = data()
    held = torch.arange(len(x)) % 10 == 0
    streamed = fit_streamed(write(tmp_path, [x], labels, held), num_classes=CLASSES, device=CPU, l2=[l2])
    whole = fit_head(x[~held], labels[~held], num_classes=CLASSES, l2=[l2])
    logits, expected = streamed(x) * streamed.temperature, whole(x)
    torch.testing.assert_close(logits, expected, atol=2e-3 * float(expected.abs().max()), rtol=0)
    torch.testing.assert_close(logits.softmax(-1), expected.softmax(-1), atol=1e-3, rtol=0)
    assert streamed.heldout_top1 == float((expected[held].argmax(1) == labels[held]).double().mean())


def test_several_views_are_the_rows_of_one(tmp_path: Path) -> None:
    x, labels = data(600)
    other = (x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).half().float()
    held = torch.arange(len(x)) % 10 == 0
    two = fit_streamed(write(tmp_path / "2", [x, other], labels, held), num_classes=CLASSES, device=CPU, l2=[0.01])
    joined = write(tmp_path / "1", [torch.cat([x, other])], labels.repeat(2), held.repeat(2))
    one = fit_streamed(joined, num_classes=CLASSES, device=CPU, l2=[0.01])
    assert two.heldout_nll == pytest.approx(one.heldout_nll, abs=1e-4)
    torch.testing.assert_close(two(x) * two.temperature, one(x) * one.temperature, atol=2e-3, rtol=1e-3)
    # The temperature is that of the plain view of the held-out images, which the weights do not know.
    assert two.temperature == pytest.approx(fit_temperature(two(x[held]) * two.temperature, labels[held]), rel=1e-4)
    assert F.cross_entropy(two(x[held]), labels[held]) <= F.cross_entropy(two(x[held]) * two.temperature, labels[held])


def test_processes_that_share_the_rows_find_one_head_and_it_is_that_of_all_rows() -> None:
    x, labels = data(601)  # one process has a row more
    held = torch.arange(len(x)) % 10 == 0
    barrier, parts = threading.Barrier(2, timeout=60), [torch.empty(0), torch.empty(0)]

    def fit(process: int) -> Head:
        def summed(part: Tensor) -> Tensor:
            parts[process] = part
            barrier.wait()
            total = parts[0] + parts[1]
            barrier.wait()
            return total

        mine = slice(process, None, 2)
        features = Features((x[mine].half(),), labels[mine], held[mine])
        return fit_streamed(features, num_classes=CLASSES, device=CPU, reduce=summed)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(fit, (0, 1))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    whole = fit_streamed(Features((x.half(),), labels, held), num_classes=CLASSES, device=CPU)
    assert (first.l2, first.heldout_top1) == (whole.l2, whole.heldout_top1)
    # Not closer: in another order of sums float32 ends the search for the smallest loss elsewhere.
    expected = whole(x)
    torch.testing.assert_close(first(x), expected, atol=2e-3 * float(expected.abs().max()), rtol=0)


def test_the_l2_of_the_head_in_memory_is_chosen(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(400, 60, generator=generator).half().float()
    labels = (0.8 * x[:, 0] + torch.randn(400, generator=generator) > 0).long()
    held = held_out(torch.arange(400), seed=0)
    streamed = fit_streamed(write(tmp_path, [x], labels, held), num_classes=2, device=CPU)
    whole = fit_head(x, labels, num_classes=2, seed=0)
    assert streamed.l2 == whole.l2
    assert streamed.heldout_nll == pytest.approx(whole.heldout_nll, abs=2e-3)


def test_correlated_features_take_few_passes() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.logspace(0, -2, 60)
    x = (torch.randn(2000, 60, generator=generator) * spread) @ torch.randn(60, 60, generator=generator)
    labels = (x @ torch.randn(60, 5, generator=generator) + 5 * torch.randn(2000, 5, generator=generator)).argmax(1)
    passes = itertools.count()
    features = Features((x.half(),), labels, torch.arange(2000) % 10 == 0)
    fit_streamed(features, num_classes=5, device=CPU, l2=[1e-3], advance=lambda: next(passes))
    assert next(passes) < 40  # without principal axes they are 109


def test_held_out_rows_do_not_reach_the_weights(tmp_path: Path) -> None:
    x, labels = data(600)
    held = torch.arange(len(x)) % 10 == 0
    one = fit_streamed(write(tmp_path / "1", [x], labels, held), num_classes=CLASSES, device=CPU, l2=[0.01])
    shifted = torch.where(held[:, None], x + 1, x)
    two = fit_streamed(write(tmp_path / "2", [shifted], labels, held), num_classes=CLASSES, device=CPU, l2=[0.01])
    torch.testing.assert_close(one.weight * one.temperature, two.weight * two.temperature, atol=1e-6, rtol=1e-5)
    assert one.temperature != two.temperature


def test_the_head_in_memory_is_calibrated_on_rows_that_it_does_not_know() -> None:
    x, labels = data(600)
    plain = fit_head(x, labels, num_classes=CLASSES, l2=[1.0])
    divided = fit_head(x, labels, num_classes=CLASSES, l2=[1.0], calibrate_on=torch.ones(600, dtype=torch.bool))
    assert plain.temperature == 1.0
    assert divided.temperature < 0.8  # so much penalty makes it less confident than it is right
    again = fit_head(x, labels, num_classes=CLASSES, l2=[1.0])
    assert torch.equal(again.weight, plain.weight)


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    file = FeatureFile(tmp_path / "view.npy", 4, 3)
    file.append(torch.ones(3, 3))
    assert not (tmp_path / "view.npy").exists()
    with pytest.raises(ValueError, match="too large for float16"):
        file.append(torch.full((1, 3), 1e5))
    file.append(torch.zeros(1, 3))
    file.close()
    features = Features.open([tmp_path / "view.npy"], torch.zeros(4), torch.zeros(4, dtype=torch.bool))
    assert features.views[0].sum(0).tolist() == [3, 3, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["view.npy"]


def test_a_split_with_an_empty_side_is_refused(tmp_path: Path) -> None:
    x, labels = data(50)
    for held, message in ((torch.zeros, "no image is held out"), (torch.ones, "every image is held out")):
        features = write(tmp_path, [x], labels, held(50, dtype=torch.bool))
        with pytest.raises(ValueError, match=message):
            fit_streamed(features, num_classes=CLASSES, device=CPU)
