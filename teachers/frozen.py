"""The frozen teacher: views in, what it says about them out, its own normalisation and size inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from students.outputs import Outputs, Shapes
from students.preprocess import Preprocess
from teachers import runtime as runtimes
from teachers.classmap import ClassMap
from teachers.head import Head
from teachers.source import check_layers

if TYPE_CHECKING:
    from teachers.teacher import RuntimeName


class FrozenTeacher(nn.Module):
    """A timm model that never trains: always in eval mode, no gradients, its own `Preprocess`.

    model: anything with timm's `forward_features`, `forward_intermediates` and `forward_head` (`runtimes.Core`).
    shapes: of the model with its own head. head: a fitted head that answers instead, [K, D].
    class_map: from the classes of the head that answers, fitted or own, to yours.
    ValueError if the head was fitted on embeddings of another length.

    name, num_classes, shapes: of what it answers. runtime_note: how it runs, and why, in a line.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        shapes: Shapes,
        preprocess: Preprocess,
        head: Head | None = None,
        class_map: ClassMap | None = None,
        runtime: RuntimeName = "auto",
    ) -> None:
        super().__init__()
        if head is not None and head.weight.shape[1] != shapes.embedding:
            raise ValueError(
                f"the head takes embeddings of {head.weight.shape[1]} numbers but '{name}' gives {shapes.embedding}; "
                "fit a head on this teacher's features"
            )
        self.name = name
        self.model: Any = model
        self.preprocess = preprocess
        self.head = head
        self.class_map = class_map
        self._answers = shapes.num_classes if head is None else head.weight.shape[0]
        self.num_classes = self._answers if class_map is None else len(class_map)
        self.shapes = replace(shapes, num_classes=self.num_classes)
        self.runtime: RuntimeName = runtime
        self.runtime_note = "eager"
        self._fast: runtimes.Runtime | None = None
        self._started: tuple[torch.device, torch.dtype] | None = None  # where, and in which precision
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Self:
        return super().train(False)  # a teacher never trains

    def start(self, device: torch.device, layers: Sequence[int] = (), views: Tensor | None = None) -> Self:
        """Move to the device and choose how to run there, for these layers. Says in `runtime_note` what it chose.

        The choice is for the precision of the autocast that it is started under; in any other, eager answers.
        views: [B >= 2, c, h, w], images on which a fast runtime must agree with eager; none: smooth noise.
        ValueError if a runtime that was asked for by name cannot run; "auto" runs eagerly then.
        """
        self.to(device)
        layers = check_layers(self.name, self.shapes, layers)
        with torch.no_grad():
            real = runtimes.smooth_noise(self.preprocess.in_chans) if views is None else views
            x = self.preprocess(real.to(device))
        self._fast, self.runtime_note = runtimes.choose(self.runtime, self.model, x, layers, self.name)
        self._started = x.device, runtimes.precision(x.device)
        return self

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Other weights, which answer eagerly until `start` is called again: a fast runtime has those of its start."""
        self._fast, self.runtime_note = None, "eager"
        return super().load_state_dict(*args, **kwargs)

    @torch.no_grad()
    def forward(self, views: Tensor, layers: Sequence[int] = (), draw: int | None = None) -> Outputs:
        """Views [B, c, h, w], uint8 or float in 0..1, to logits [B, K], embedding [B, D] and grids of the layers.

        The embedding is None where the model hands out none. draw: a seed for an ensemble's draw; unused here.
        ValueError if there is no such layer. Tensors have the precision of the autocast that it is called under.
        """
        layers = check_layers(self.name, self.shapes, layers)
        x = self.preprocess(views)
        if self._fast is not None and self._serves(self._fast, x, layers):
            logits, embedding, grids = self._fast(x)
        else:
            logits, embedding, grids = runtimes.eager(self.model, x, layers)
        if self.head is not None:
            logits = self.head(embedding)
        # A model without a head of its own gives its embedding for logits; cut, they are [B, 0].
        logits = logits[:, : self._answers]
        if self.class_map is not None:
            logits = self.class_map(logits)
        grids = {layer: grids[layer] for layer in layers}
        return Outputs(logits, None, embedding if self.shapes.embedding else None, grids)

    def _serves(self, fast: runtimes.Runtime, x: Tensor, layers: Sequence[int]) -> bool:
        here = x.device, runtimes.precision(x.device)
        if self.runtime == "onnxruntime" and here[1] != torch.float32:
            raise ValueError(
                "onnxruntime computes in float32 but mixed precision is on; use --teacher.runtime auto, "
                "or launch with mixed precision 'no'"
            )
        return here == self._started and set(layers) <= set(fast.layers)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fast": None}  # a session belongs to its process; a copy starts for itself

    def num_params(self) -> int:
        """Parameters of what answers: the model, with a fitted head in the place of its own."""
        count = sum(parameter.numel() for parameter in self.model.parameters())
        if self.head is None:
            return count
        own = self.model.get_classifier()
        heads = own if isinstance(own, tuple) else (own,)  # a distilled model has two
        replaced = sum(parameter.numel() for module in heads for parameter in module.parameters())
        return count - replaced + self.head.weight.numel() + self.head.bias.numel()
