"""What each figure of the page is, and where it was defined; only of figures that a report has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DEFINITIONS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("top1",),
        "top-1, top-5, interval",
        "The share of labelled images whose class is the model's first answer, or among its first five. The interval "
        "is Wilson's (1927): in 95 of 100 such samples of images it holds the true share.",
    ),
    (
        ("kept",),
        "kept",
        "The model's top-1 divided by its teacher's, or by the reference's where its teacher was not measured.",
    ),
    (
        ("agreement",),
        "agrees, KL",
        "The share of images on which both decide alike; and the mean of KL(reference ‖ model) of their probabilities, "
        "in nats: 0 for equal ones.",
    ),
    (
        ("mcnemar",),
        "p",
        "McNemar's test (1947) on the images that only one of the two gets right: how likely a difference at least as "
        "large would be if both were equally good. Under it: only the reference right, only this model right.",
    ),
    (
        ("fidelity", "rank_correlation"),
        "rank ρ",
        "Spearman's correlation of the ranks that both give to the classes, mean over the images.",
    ),
    (
        ("calibration",),
        "NLL, Brier, ECE",
        "The mean negative log-likelihood of the label; the squared distance of the probabilities from the label "
        "(Brier 1950); the mean gap between confidence and accuracy over 15 bins of confidence (Guo et al. 2017).",
    ),
    (
        ("calibration", "temperature"),
        "T",
        "The temperature that the logits are divided by so that the NLL is least (Guo et al. 2017), fitted on images "
        "other than those it is measured on. It changes no decision.",
    ),
    (
        ("fidelity", "cka"),
        "CKA",
        "Linear centred kernel alignment (Kornblith et al. 2019) over minibatches (Nguyen et al. 2021): how alike two "
        "layers lay out the same images, whatever rotation and scale they do it in.",
    ),
    (
        ("cost",),
        "MACs, ms, images/s, memory",
        "Multiply-accumulates of one image; milliseconds for one image; images a second in batches of 64. Models are "
        "timed in turns; the figure is the median of the rounds, under it their range. Memory: what such a batch holds "
        "at most, beside weights and input.",
    ),
    (
        ("robustness",),
        "corruptions",
        "The same images made worse at five strengths (after Hendrycks and Dietterich 2019).",
    ),
)

LOOKING = {
    "attention rollout": "Of each patch, how much is in the token that answers, by the product of the blocks' "
    "attention, residuals counted (Abnar and Zuidema 2020). It does not depend on the class.",
    "Grad-CAM": "The last grid of features, weighted by how much each raises the decided class "
    "(Selvaraju et al. 2017).",
    "input gradient": "How strongly each pixel moves the logit of the decided class (Simonyan et al. 2014).",
}


def of(report: Mapping[str, Any], methods: Sequence[str]) -> list[tuple[str, str]]:
    """Terms and their definitions, of the figures in this report and of how maps were made."""
    found = [(term, text) for path, term, text in DEFINITIONS if any(_has(model, path) for model in report["models"])]
    return found + [(name, text) for name, text in LOOKING.items() if name in methods]


def _has(model: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    value: Any = model
    for name in path:
        value = value.get(name) if value else None
    return value is not None
