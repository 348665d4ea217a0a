"""A module that knows nothing of us, asked for its logits, embedding and grids by hooks on its submodules."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from students.outputs import Shapes
from students.preprocess import Preprocess
from teachers.custom import Custom, function_named


class Hooked(nn.Module):
    """A module with the three methods that a `FrozenTeacher` calls (`runtime.Core`).

    layers: names of submodules whose outputs are grids, or tokens of which the first prefix_tokens are not in a grid.
    classifier: name of the submodule whose input is the embedding, or none.
    Features are (logits, embedding), the embedding standing for itself only where there is a classifier.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], prefix_tokens: int, classifier: str | None) -> None:
        super().__init__()
        self.model = model
        self.layers, self.prefix_tokens, self.classifier = tuple(layers), prefix_tokens, classifier

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_intermediates(x, [])[0]

    def forward_intermediates(self, x: Tensor, indices: list[int]) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
        """Normalised images [B, C, H, W] -> (logits [B, K], embedding [B, D]), and the layers' grids [B, C, H, W]."""
        seen: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            # Only while it runs, so that the module is left as it was, and can be copied.
            for name in {self.layers[index] for index in indices}:
                module = self.model.get_submodule(name)
                hooks.callback(module.register_forward_hook(_keeper(seen, name)).remove)
            if self.classifier is not None:
                module = self.model.get_submodule(self.classifier)
                hooks.callback(module.register_forward_pre_hook(_input_keeper(seen)).remove)
            logits = first_tensor(self.model(x))
        embedding = logits if self.classifier is None else _seen(seen, _EMBEDDING, self.classifier)
        grids = [self._grid(seen, self.layers[index], x) for index in indices]
        return (logits, embedding), grids

    def forward_head(self, x: tuple[Tensor, Tensor], pre_logits: bool = False) -> Tensor:
        return x[1] if pre_logits else x[0]

    def get_classifier(self) -> nn.Module:
        return nn.Identity() if self.classifier is None else self.model.get_submodule(self.classifier)

    def _grid(self, seen: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
        grid = _seen(seen, name, name)
        if grid.ndim == 3:
            grid = _untoken(grid[:, self.prefix_tokens :], x.shape[-2] / x.shape[-1], name)
        if grid.ndim != 4:
            raise ValueError(f"layer '{name}' gives {list(grid.shape)}; name one that gives [B, C, H, W] or [B, N, C]")
        return grid


def make(teacher: Custom) -> Hooked:
    """The module that the function returns, on the CPU, always the same. ValueError if it is none."""
    function = function_named(str(teacher.model))
    with torch.random.fork_rng(devices=[]):
        # Where parts are random they are the same on every process, after a resume and in a comparison.
        torch.manual_seed(0)
        try:
            model = function()
        except Exception as error:  # whatever a user's own code raises
            line = " ".join(str(error).split())
            raise ValueError(f"{teacher.model} failed: {type(error).__name__}: {line}; mend that function") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{teacher.model} returned a {type(model).__name__}; let it return the nn.Module")
    names = [name for name, _ in model.named_modules() if name]
    for name in (*teacher.layers, *((teacher.classifier,) if teacher.classifier else ())):
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
            raise ValueError(f"'{teacher.name}' has no submodule '{name}'; did you mean {' or '.join(near)}?")
    return Hooked(model.cpu().eval(), teacher.layers, teacher.prefix_tokens, teacher.classifier)


def preprocess(teacher: Custom) -> Preprocess:
    """What is done to views before the module sees them."""
    size = teacher.img_size
    return Preprocess((size, size) if isinstance(size, int) else (size[0], size[1]), teacher.mean, teacher.std)


@torch.no_grad()
def shapes(teacher: Custom, model: Hooked) -> Shapes:
    """The shapes of its outputs on two black images. ValueError if it cannot take them or says other things."""
    x = preprocess(teacher)(torch.zeros(2, len(teacher.mean), 1, 1))
    try:
        (logits, embedding), grids = model.forward_intermediates(x, list(range(len(teacher.layers))))
    except Exception as error:  # whatever a module raises at images that it was not made for
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"'{teacher.name}' cannot take images [2, {', '.join(map(str, x.shape[1:]))}]: {reason}"
        ) from error
    if logits.ndim != 2 or len(logits) != 2:
        raise ValueError(f"'{teacher.name}' returns {list(logits.shape)} for 2 images; let it return logits [B, K]")
    if embedding.ndim != 2:
        raise ValueError(
            f"the input of '{teacher.classifier}' is {list(embedding.shape)}; name the submodule that takes [B, D]"
        )
    if teacher.classes and len(teacher.classes) != logits.shape[1]:
        raise ValueError(f"'{teacher.name}' has {logits.shape[1]} logits but {len(teacher.classes)} classes are named")
    return Shapes(
        num_classes=logits.shape[1],
        has_token=False,
        embedding=0 if teacher.classifier is None else embedding.shape[1],
        grids={layer: (grid.shape[1], grid.shape[2], grid.shape[3]) for layer, grid in enumerate(grids)},
        names=teacher.layers,
    )


def first_tensor(output: Any) -> Tensor:
    """A tensor, the `logits` of an object, or the first of a tuple. ValueError for anything else."""
    found = getattr(output, "logits", output)
    found = found[0] if isinstance(found, (tuple, list)) and found else found
    if not isinstance(found, Tensor):
        raise ValueError(f"it gives a {type(found).__name__} and no tensor")
    return found


_EMBEDDING = ""  # no submodule has this name


def _keeper(seen: dict[str, Tensor], name: str):
    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if name in seen:
            raise ValueError(f"submodule '{name}' runs more than once a call, so its output is not one; name another")
        seen[name] = first_tensor(output).clone()  # what runs next may change it in place, as ReLU often does

    return keep


def _input_keeper(seen: dict[str, Tensor]):
    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen[_EMBEDDING] = first_tensor(inputs).clone()

    return keep


def _seen(seen: dict[str, Tensor], key: str, name: str) -> Tensor:
    if key not in seen:
        raise ValueError(f"submodule '{name}' does not run when the module is called; name another")
    return seen[key]


def _untoken(tokens: Tensor, aspect: float, name: str) -> Tensor:
    """Tokens [B, N, C] -> a grid [B, C, h, w] of the image's aspect, height over width."""
    count = tokens.shape[1]
    height = max(round((count * aspect) ** 0.5), 1)
    if height * (count // height) != count:
        raise ValueError(f"layer '{name}' gives {count} tokens, which are no grid; set prefix_tokens to leave some out")
    return tokens.transpose(1, 2).unflatten(2, (height, count // height))
