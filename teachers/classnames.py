"""What a teacher's classes are called: its own names, or ImageNet's, which timm carries by number of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset


def class_names(model: Any) -> tuple[dict[str, int], ...]:
    """Names -> indices of a timm model's classes, the most exact first; empty where nothing is known.

    A model without names of its own whose head has the size of an ImageNet edition (1,000, 11,221, 11,821, 21,841,
    21,842 or 21,843 classes) is taken to have that edition's: synsets ("n01440764"), then their descriptions and each
    of the words in them ("tench, Tinca tinca", "tench"), as far as they name one class only.
    """
    own = model.pretrained_cfg.get("label_names")
    if own:
        described = model.pretrained_cfg.get("label_descriptions") or {}
        texts = [described.get(name, name) if isinstance(described, dict) else name for name in own]
        return _index(own), _unambiguous(texts)
    subset = infer_imagenet_subset(model)
    if subset is None:
        return ()
    info = ImageNetInfo(subset)
    return _index(info.label_names()), _unambiguous(info.label_descriptions())


def readable(names: Sequence[str]) -> tuple[str, ...]:
    """ImageNet-1k's synsets as words: the first of a description, with the synset behind it where two share that.

    Names that are not all synsets stay as they are.
    """
    info = ImageNetInfo("imagenet-1k")
    words = {
        str(synset): str(text).split(", ")[0]
        for synset, text in zip(info.label_names(), info.label_descriptions(), strict=True)
    }
    if not all(name in words for name in names):
        return tuple(names)
    count = Counter(words.values())
    return tuple(words[name] if count[words[name]] == 1 else f"{words[name]} ({name})" for name in names)


def _index(names: Any) -> dict[str, int]:
    return {str(name): index for index, name in enumerate(names)}


def _unambiguous(descriptions: Any) -> dict[str, int]:
    found: dict[str, set[int]] = {}
    for index, description in enumerate(descriptions):
        for text in {str(description), *str(description).split(", ")}:
            found.setdefault(text, set()).add(index)
    return {text: indices.pop() for text, indices in found.items() if len(indices) == 1}
