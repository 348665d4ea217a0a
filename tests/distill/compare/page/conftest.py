"""A report by hand and the pictures of three small models, for the tests of the page."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image


class Squares:
    """Grey images of 28 px whose noise is a function of the index."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        self.read.append(index)
        pixels = np.random.default_rng(index).integers(0, 256, (28, 28), dtype=np.uint8)
        return Image.fromarray(pixels), index % 10


def make_report(classes: int = 10, *, images: int = 400, names: list[str] | None = None) -> dict:
    """A teacher that is right on 90 %, a student on 81 %, the student alone on 72 %, `classes` classes."""
    each = images // classes

    def model(key: str, role: str, share: float, number: int, **more) -> dict:
        rng = np.random.default_rng(number)
        correct = [int(n) for n in rng.binomial(each, share, classes)]
        bins = [{"confidence": (b + 0.5) / 15, "accuracy": (b + 0.4) / 15, "images": 3 * b} for b in range(15)]
        calibrated = {"nll": 0.5, "brier": 0.3, "ece": 0.04, "bins": bins}
        top = [[c % classes, p] for c, p in enumerate((0.9, 0.05, 0.03, 0.01, 0.01))]
        other = [[(c + 1) % classes, p] for c, p in enumerate((0.8, 0.1, 0.05, 0.03, 0.02))]
        shown = min(classes, 40)
        compared = number > 0
        return {
            "key": key, "role": role, "name": key, "source": "x", "run": f"runs/{key}" if compared else None,
            "alone": None, "params": 3_400_000 if number == 0 else 680_000, "images": images, "img_size": [28, 28],
            "top1": share, "top1_interval": [share - 0.03, share + 0.03], "top5": 0.99, "top5_interval": [0.98, 0.995],
            "nll": 0.5, "agreement": share if compared else None, "kl": 0.26 if compared else None, "kept": share / 0.9,
            "per_class": [{"images": each, "correct": n} for n in correct],
            "mcnemar": {"only_reference": 50, "only_this": 14, "p": 0.0000083} if compared else None,
            "fidelity": {
                "agreement": share, "agreement_interval": [0.7, 0.8], "kl": 0.26, "rank_correlation": 0.77,
                "cka": {"layers": [1, 3], "reference_layers": [0, 4], "values": [[0.9, 0.2], [0.3, 0.75]]},
            } if compared else None,
            "calibration": {"before": calibrated, "temperature": 1.25, "after": calibrated | {"ece": 0.01}},
            "confusion": {
                "classes": list(range(shown)),
                "counts": (np.eye(shown, dtype=int) * 30 + rng.integers(0, 4, (shown, shown))).tolist(),
            },
            "robustness": {"gaussian_noise": [share - 0.1 * s for s in range(1, 6)]},
            "uncorrupted_top1": share,
            "cost": {
                "macs": 1e6 * (number + 1), "file_bytes": 2_700_000, "device": "CPU", "threads": 1, "peak_bytes": None,
                "latency_ms": {"median": 3.0, "low": 2.5, "high": 4.0},
                "throughput": {"median": 200.0 * (1 + number), "low": 150.0, "high": 1000.0},
            },
            "disagreements": [
                {"index": 7 * n, "label": n % classes, "reference_top5": top, "top5": other} for n in range(12)
            ] if compared else [],
        } | more  # fmt: skip

    curve = [[epoch, 0.6 + 0.05 * epoch] for epoch in range(1, 5)]
    losses = {"loss": [[s, 5 - s / 200] for s in range(0, 400, 10)], "soft": [[s, 3 / (s + 1)] for s in range(100)]}
    return {
        "schema": 1,
        "data": {
            "name": "squares",
            "images": images,
            "labelled": images,
            "classes": names or [f"class {c}" for c in range(classes)],
        },
        "reference": "big",
        "models": [
            model("big", "teacher", 0.9, 0),
            model("small", "student", 0.81, 1, alone="runs/small-alone"),
            model("small-alone", "baseline", 0.72, 2),
        ],
        "curves": {
            "runs/small": {"role": "student", "val": curve, "losses": losses},
            "runs/small-alone": {"role": "baseline", "val": curve, "losses": {"loss": losses["loss"]}},
        },
    }


@pytest.fixture(scope="session")
def squares() -> Squares:
    return Squares(images=50_000)


@pytest.fixture(scope="session")
def eyes():
    """A grid model, one of our students, and a timm Vision Transformer, by the keys of the report."""
    import timm
    import torch

    from distill.compare.page import Eye
    from students import ViTConfig
    from students.preprocess import Preprocess

    torch.manual_seed(0)
    small: Any = {"img_size": 28, "patch_size": 7, "in_chans": 1, "embed_dim": 16, "depth": 2, "num_heads": 2}
    vit = ViTConfig(**small, num_classes=10).build().eval()
    theirs = timm.create_model("vit_tiny_patch16_224", **small, num_classes=10).eval()
    cnn = timm.create_model("test_efficientnet.r160_in1k", pretrained=False, in_chans=1, num_classes=10).eval()
    prepare = Preprocess((28, 28), (0.5,), (0.25,))

    def seen(image):
        return prepare(torch.from_numpy(np.array(image))[None, None])

    return {key: Eye(module=m, preprocess=seen, forward=m) for key, m in zip(
        ("big", "small", "small-alone"), (cnn, vit, theirs), strict=True
    )}  # fmt: skip


@pytest.fixture(scope="session")
def report() -> dict:
    return make_report()


@pytest.fixture(scope="session")
def pictures(report, squares, eyes):
    from distill.compare.page import draw

    return draw(report, squares, eyes)


@pytest.fixture(scope="session")
def report_of():
    return make_report
