"""A model that is to be measured, whatever it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.compare.terms import Terms
from distill.evaluate import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

Role = Literal["teacher", "student", "baseline", "model"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model in eval mode on its device.

    preprocess: an image -> the view [C, H, W], uint8, on the model's own terms.
    prepare: views [B, C, H, W] -> what `module` takes, normalised and of its size.
    logits: views -> logits [B, K] of the data's classes, the way it runs here. forward: what `prepare` gives -> the
    same in plain PyTorch (or the ONNX file's runtime), which is what the cost is measured on.
    module: None for an ONNX file and for several modules. grids: views and layers -> layer -> [B, C, H, W]; None where
    it hands out none. layers: those at a quarter, half, three quarters and all of its depth.
    names: of its own classes in order, () where unknown; also_called: names -> indices, the most exact first.
    file: of the weights, as they came; of a teacher with a fitted head its own head is still in it.
    among: the logit of `forward` for each class that is compared; (): they are the same.
    asked: the word it was named by, "" for what came along.
    run: its run folder; taught_by: what names its teacher among the candidates, and a teacher as such.
    """

    key: str = ""
    role: Role
    name: str
    source: str
    asked: str = ""
    run: str | None = None
    taught_by: str | None = None
    params: int
    num_classes: int
    preprocess: Terms
    prepare: Callable[[Tensor], Tensor]
    logits: Model
    forward: Model
    module: nn.Module | None = None
    img_size: tuple[int, int]
    grids: Callable[[Tensor, Sequence[int]], Mapping[int, Tensor]] | None = None
    layers: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    also_called: tuple[Mapping[str, int], ...] = ()
    file: Path | None = None
    among: tuple[int, ...] = ()


def keyed(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with keys: their names, of runs and files of one name with the folders that they lie in.

    Where those are the same too, or there are none, with a number behind.
    """
    taken: set[str] = set()
    named = []
    for candidate, name in zip(candidates, _told_apart(candidates), strict=True):
        key, number = name, 1
        while key in taken:
            number += 1
            key = f"{name} ({number})"
        taken.add(key)
        named.append(replace(candidate, key=key))
    return named


def _told_apart(candidates: Sequence[Candidate]) -> list[str]:
    places = [Path(candidate.asked or candidate.source) for candidate in candidates]
    names = [candidate.name for candidate in candidates]
    for parts in range(2, max(len(place.parts) for place in places) + 1):
        shared = {name for name in names if names.count(name) > 1}
        for number, (candidate, place) in enumerate(zip(candidates, places, strict=True)):
            own = Path(candidate.name).parts
            if names[number] in shared and place.parts[-len(own) :] == own:
                names[number] = "/".join(place.parts[-parts:])
    return names
