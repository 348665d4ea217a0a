"""The pictures of the page: of the gallery's images, of where each model looks, and of what a transformer sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from distill.data import Images

PHOTO_PX, MAP_PX = 168, 112
CARDS = 36
"""Disagreements on a page, shared by its models: each is three pictures."""
CUT_IMAGES = 4


@dataclass(frozen=True, kw_only=True)
class Eye:
    """A model that can be looked into.

    preprocess: an image to what the module takes, [1, C, H, W], on its device. forward: the same to logits [1, K],
    through which gradients flow. logit: the logit of each class of the report; (): the same numbers.
    """

    module: nn.Module
    preprocess: Callable[[Image], Tensor]
    forward: Callable[[Tensor], Tensor]
    logit: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Inside:
    """Of a Vision Transformer, as data: URIs: images in patches, patterns of its filters, likeness of its places.

    grid: rows and columns of patches. patch_px: their height and width. lowest: the least of the similarities.
    """

    grid: tuple[int, int]
    patch_px: tuple[int, int]
    patches: tuple[tuple[int, str], ...]
    patterns: str | None
    positions: str | None
    lowest: float | None


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures as data: URIs.

    photos: by an image's index in the data set. maps: by a model's key and an image's index. methods: how a model's
    maps were made. inside: by a model's key.
    """

    photos: Mapping[int, str] = field(default_factory=dict)
    maps: Mapping[tuple[str, int], str] = field(default_factory=dict)
    methods: Mapping[str, str] = field(default_factory=dict)
    inside: Mapping[str, Inside] = field(default_factory=dict)


def draw(report: Mapping[str, Any], images: Images, eyes: Mapping[str, Eye]) -> Pictures:
    """The pictures that a report asks for. Only the gallery's images are read, one at a time.

    eyes: by the key of a model of the report; a model without one, such as an ONNX file, has no maps.
    """
    from distill.compare.page.pixels import data_uri, overlaid
    from distill.compare.page.saliency import look

    photos: dict[int, str] = {}
    maps: dict[tuple[str, int], str] = {}
    methods: dict[str, str] = {}
    asked = _questions(report)
    for index in sorted({index for _, index, _ in asked}):
        image = images[index][0]
        photos[index] = data_uri(_thumbnail(image), photo=True)
        for key, decision in sorted((key, decision) for key, at, decision in asked if at == index and key in eyes):
            eye = eyes[key]
            x = eye.preprocess(image)
            logit = eye.logit[decision] if eye.logit else decision
            try:
                heat, methods[key] = look(eye.module, eye.forward, x, logit)
            except RuntimeError:  # through somebody's module no gradient may flow; the report is worth more than a map
                continue
            maps[key, index] = data_uri(overlaid(x[0].float().cpu().numpy(), heat.numpy(), MAP_PX), photo=True)
    inside = {key: found for key, eye in eyes.items() if (found := _inside(eye, images, sorted(photos) or [0]))}
    return Pictures(photos=photos, maps=maps, methods=methods, inside=inside)


def shown(report: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The disagreements that the page shows, by the key of a model; fewer of each where there are many models."""
    found = {model["key"]: model["disagreements"] for model in report["models"] if model.get("disagreements")}
    each = max(CARDS // max(len(found), 1), 2)
    return {key: cards[:each] for key, cards in found.items()}


def _questions(report: Mapping[str, Any]) -> set[tuple[str, int, int]]:
    """Which model is asked about which image and class: (key, index, its decision)."""
    asked = set()
    for key, cards in shown(report).items():
        for card in cards:
            asked.add((key, card["index"], card["top5"][0][0]))
            asked.add((report["reference"], card["index"], card["reference_top5"][0][0]))
    return asked


def _thumbnail(image: Image) -> Image:
    small = image.convert("RGB")
    small.thumbnail((2 * PHOTO_PX, PHOTO_PX))
    return small


def _inside(eye: Eye, images: Images, indices: Sequence[int]) -> Inside | None:
    from distill.compare.page import inside
    from distill.compare.page.saliency import plain_vit

    vit = plain_vit(eye.module)
    if vit is None:
        return None
    inputs = [(index, eye.preprocess(images[index][0])) for index in indices[:CUT_IMAGES]]
    high, wide = vit.patch_embed.proj.kernel_size
    likeness = inside.similarity(vit)
    return Inside(
        grid=(inputs[0][1].shape[-2] // high, inputs[0][1].shape[-1] // wide),
        patch_px=(high, wide),
        patches=tuple((index, inside.patches(vit, x)) for index, x in inputs),
        patterns=inside.patterns(vit),
        positions=None if likeness is None else inside.positions(likeness),
        lowest=None if likeness is None else float(likeness.min()),
    )
