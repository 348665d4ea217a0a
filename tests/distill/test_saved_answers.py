"""What is kept of a teacher's answer, and what float16 and the even spread make of it."""

import math

import numpy as np
import pytest
import torch

from distill.loader import Batch
from distill.saved.answers import Answers
from distill.saved.manifest import Shard, sha256
from distill.saved.writer import write_shards
from students.outputs import Outputs

CPU = torch.device("cpu")


def read_back(answers: Answers, logits: torch.Tensor, embedding: torch.Tensor | None = None) -> Outputs:
    return answers.outputs(answers.rows(Outputs(logits, embedding=embedding)), CPU)


def test_the_top_two_of_five_by_hand():
    p = torch.tensor([[0.0625, 0.5, 0.125, 0.25, 0.0625]])
    logits = read_back(Answers(num_classes=5, k=2, dtype="float16"), p.log() + 3).logits
    spread = torch.tensor([[1 / 12, 1 / 2, 1 / 12, 1 / 4, 1 / 12]])  # the others share 0.25
    assert torch.allclose(logits.softmax(-1), spread, atol=2e-4)
    assert logits[0, 1].item() == pytest.approx(math.log(0.5) + 3, abs=1e-3)  # the level is kept too

    # At temperature 2 the shares are the roots: the top two keep their ratio, the others weigh more than they should.
    roots = torch.tensor([[12**-0.5, 0.5**0.5, 12**-0.5, 0.25**0.5, 12**-0.5]])
    assert torch.allclose((logits / 2).softmax(-1), roots / roots.sum(), atol=2e-4)
    others = [roots.tolist()[0][i] for i in (0, 2, 4)]
    assert sum(others) > 2 * 0.0625**0.5 + 0.125**0.5


def test_a_small_remainder_is_kept_where_one_minus_the_top_would_lose_it():
    p = torch.tensor([[1 - 1e-6, *[1e-6 / 9] * 9]], dtype=torch.float64)
    logits = read_back(Answers(num_classes=10, k=1, dtype="float16"), p.log()).logits
    assert logits[0, 1:].double().exp().sum().item() == pytest.approx(1e-6, rel=0.01)


def test_all_logits_in_float32_come_back_bit_for_bit():
    logits, embedding = torch.randn(6, 10) * 30, torch.randn(6, 7)
    back = read_back(Answers(num_classes=10, k=None, dtype="float32", embedding=7), logits, embedding)
    assert back.embedding is not None
    assert torch.equal(back.logits, logits)
    assert torch.equal(back.embedding, embedding)


@pytest.mark.parametrize("k", [None, 100])
def test_float16_keeps_every_probability_to_0_00018(k):
    logits = torch.randn(64, 1000, generator=torch.Generator().manual_seed(0)) * 4 + 20
    answers = Answers(num_classes=1000, k=k, dtype="float16")
    rows, p = answers.rows(Outputs(logits)), logits.double().softmax(-1)
    kept = rows["logits"] if k is None else rows["top"]
    true = p if k is None else p.topk(k).values
    off = np.abs(np.exp(kept.astype(np.float64)) - true.numpy())
    assert off.max() < 1 / math.e / 2048 < 0.00018
    read = answers.outputs(rows, CPU).logits.double().softmax(-1)
    assert torch.allclose(read.sum(-1), torch.ones(64, dtype=torch.float64))
    assert (read.argmax(-1) == p.argmax(-1)).all()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_teachers_decision_survives_rounding(k):
    logits = torch.tensor([[2.0, 2.0, 2.0001, 2.0], [0.0, 0.0, 0.0, 1e-4]])
    assert read_back(Answers(num_classes=4, k=k, dtype="float16"), logits).logits.argmax(-1).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("k", "dtype", "embedding", "bytes_per_image"),
    [
        (10, "float16", 0, 44),
        (100, "float16", 0, 404),  # TinyViT's, at the same k
        (None, "float16", 0, 2002),
        (None, "float32", 0, 4000),
        (10, "float16", 192, 428),
        (10, "float32", 0, 68),
    ],
)
def test_bytes_of_an_image_at_1000_classes_are_those_of_the_file(tmp_path, k, dtype, embedding, bytes_per_image):
    answers = Answers(num_classes=1000, k=k, dtype=dtype, embedding=embedding)
    assert answers.bytes_per_image == bytes_per_image
    outputs = Outputs(torch.randn(3, 1000), embedding=torch.randn(3, embedding))
    batches = (Batch(torch.empty(3), None, torch.arange(3), 5, position) for position in (6, 9))
    shard = Shard(5, 6, 6, tmp_path / "epoch" / "shard.bin")
    write_shards([shard], batches, lambda batch: answers.rows(outputs))
    assert shard.path.stat().st_size == 6 * bytes_per_image
    assert shard.checksum.read_text() == f"{sha256(shard.path)}  shard.bin\n"
    assert sorted(path.name for path in shard.path.parent.iterdir()) == ["shard.bin", "shard.sha256"]


def test_more_than_65536_classes_have_wider_indices():
    logits = torch.zeros(1, 70_000)
    logits[0, 69_999] = 9
    answers = Answers(num_classes=70_000, k=1, dtype="float16")
    assert answers.bytes_per_image == 2 + 4 + 2 + 2
    assert read_back(answers, logits).logits.argmax().item() == 69_999


def test_what_cannot_be_kept_is_said():
    with pytest.raises(ValueError, match="k is 10 but the teacher has 10 classes; use 1 to 9, or all"):
        Answers(num_classes=10, k=10, dtype="float16")
    kept = Answers(num_classes=3, k=1, dtype="float16")
    with pytest.raises(ValueError, match=r"the teacher's top is not finite as float16"):
        kept.rows(Outputs(torch.tensor([[0.0, math.nan, 0.0]])))
    with pytest.raises(ValueError, match=r"the teacher's embedding is not finite as float16; use --dtype float32"):
        Answers(num_classes=3, k=1, dtype="float16", embedding=1).rows(
            Outputs(torch.zeros(1, 3), embedding=torch.tensor([[1e6]]))
        )
    rows = kept.rows(Outputs(torch.zeros(1, 3)))
    rows["index"] = 3
    with pytest.raises(ValueError, match="it names class 3 of 3"):
        kept.outputs(rows, CPU)
