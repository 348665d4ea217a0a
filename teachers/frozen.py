"""The frozen teacher: views in, what it says about them out, its own normalisation and size inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from students.outputs import Outputs, Shapes
from students.preprocess import Preprocess
from teachers import runtime as runtimes
from teachers.head import Head
from teachers.source import check_layers


class FrozenTeacher(nn.Module):
    """A timm model that never trains: always in eval mode, no gradients, its own `Preprocess`.

    model: anything with timm's `forward_features`, `forward_intermediates` and `forward_head` (`runtimes.Core`).
    shapes: of the model with its own head. head: a fitted head that answers instead, [K, D].
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
        runtime: Literal["auto", "eager", "onnxruntime"] = "auto",
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
        self.num_classes = shapes.num_classes if head is None else head.weight.shape[0]
        self.shapes = replace(shapes, num_classes=self.num_classes)
        self.runtime = runtime
        self.runtime_note = "eager"
        self._fast: runtimes.OnnxCore | None = None
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Self:
        return super().train(False)  # a teacher never trains

    def start(self, device: torch.device, layers: Sequence[int] = (), views: Tensor | None = None) -> Self:
        """Move to the device and choose how to run there, for these layers. Says in `runtime_note` what it chose.

        views: [B >= 2, c, h, w], images on which a fast runtime must agree with eager; none: smooth noise.
        ValueError if a runtime that was asked for by name cannot run; "auto" runs eagerly then.
        """
        self.to(device)
        self._fast, self.runtime_note = None, "eager"
        layers = check_layers(self.name, self.shapes, layers)
        if self.runtime == "eager":
            return self
        try:
            if device.type != "cpu":
                raise runtimes.UnsuitableError(f"the device is {device.type} and onnxruntime is used on the CPU")
            with torch.no_grad():
                x = self.preprocess(runtimes.smooth_noise(self.preprocess.in_chans) if views is None else views)
            self._fast = runtimes.onnx_core(self.model, x, layers, self.name)
            self.runtime_note = self._fast.note
        except runtimes.UnsuitableError as error:
            if self.runtime == "onnxruntime":
                raise ValueError(
                    f"'{self.name}' cannot run on onnxruntime: {error}; use --teacher.runtime auto or eager"
                ) from error
            self.runtime_note = f"eager ({error})"
        return self

    @torch.no_grad()
    def forward(self, views: Tensor, layers: Sequence[int] = ()) -> Outputs:
        """Views [B, c, h, w], uint8 or float in 0..1, to logits [B, K], embedding [B, D] and grids of the layers.

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
        return Outputs(logits[:, : self.num_classes], None, embedding, {layer: grids[layer] for layer in layers})

    def _serves(self, fast: runtimes.OnnxCore, x: Tensor, layers: Sequence[int]) -> bool:
        if torch.is_autocast_enabled("cpu"):
            if self.runtime == "onnxruntime":
                raise ValueError(
                    "onnxruntime computes in float32 but mixed precision is on; use --teacher.runtime auto, "
                    "or launch with mixed precision 'no'"
                )
            return False
        return x.device.type == "cpu" and set(layers) <= set(fast.layers)

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
