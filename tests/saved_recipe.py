"""The tiny recipe with losses that read what is saved: the numbers of the logits, their order, the embedding."""

from dataclasses import replace

from tiny_recipe import recipe as tiny

from distill import run
from distill.losses import CosineEmbedding, CrossEntropy, HardTargets, SoftTargets

recipe = replace(
    tiny,
    losses={
        "labels": CrossEntropy(weight=0.5, smoothing=0.1),
        "hard": HardTargets(),
        "soft": SoftTargets(temperature=2.0),
        "embedding": CosineEmbedding(weight=0.5),
    },
)

if __name__ == "__main__":
    run(recipe)
