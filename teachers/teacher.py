"""Which model teaches, with which weights, at which size: a value, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from students.outputs import Shapes
    from teachers.frozen import FrozenTeacher
    from teachers.head import Head


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A pretrained model that teaches. ValueError from any method says which field is wrong and what would do."""

    name: str
    """A timm name ("resnet50.a1_in1k"), "local-dir:FOLDER" or the folder alone, or "hf-hub:ORG/NAME"."""

    checkpoint: str | None = None
    """A weights file (.safetensors, or .pth/.pt that loads with weights_only) instead of the pretrained weights."""

    img_size: int | tuple[int, int] | None = None
    """Pixels, or height and width, that views are resized to; none: the model's own size."""

    head: Literal["own", "fit"] = "own"
    """"own": the class head the weights come with; "fit": a linear head fitted on the frozen features of your data."""

    fit_images: int = 10_000
    """With head "fit": the largest number of training images it is fitted on, each seen plain and augmented once."""

    runtime: Literal["auto", "eager", "onnxruntime"] = "auto"
    """"auto": onnxruntime on a CPU where it is installed and agrees with PyTorch, eager PyTorch everywhere else."""

    def shapes(self) -> Shapes:
        """The shapes of the model's `Outputs`, with its own head, from a model without weights on the meta device.

        Nothing is downloaded, but for an "hf-hub:" name its config.json; of a checkpoint only the number of classes
        is read. A model without `forward_intermediates` has no grids.
        """
        from teachers import source

        return source.shapes(source.plan(self))

    def label_names(self) -> tuple[str, ...] | None:
        """The names of the K classes in the order of the logits, or None where the model does not carry them."""
        from teachers import source

        names = source.plan(self).skeleton.pretrained_cfg.get("label_names")
        return tuple(names) if names else None

    def weights_source(self) -> str:
        """Where the weights come from, in a phrase: "hub timm/resnet50.a1_in1k", "checkpoint best.pth"."""
        from teachers import source

        return source.plan(self).weights_source

    def build(self, *, head: Head | None = None, layers: Sequence[int] = (), pretrained: bool = True) -> FrozenTeacher:
        """The frozen module on the CPU, running eagerly until its `start`.

        head: a fitted head that answers instead of the model's own; with `head="fit"` and no head yet, the module
        still answers with its own, which is what a head is fitted on.
        layers: layers that will be asked for; one that does not exist is an error before any weight is read.
        pretrained: False leaves the weights random, for a rehearsal.
        """
        from students.preprocess import Preprocess
        from teachers import source
        from teachers.frozen import FrozenTeacher

        plan = source.plan(self)
        shapes = source.shapes(plan)
        source.check_layers(self.name, shapes, layers)
        mean, std = source.statistics(plan)
        return FrozenTeacher(
            source.load(plan, pretrained=pretrained),
            name=self.name,
            shapes=shapes,
            preprocess=Preprocess(plan.img_size, mean, std),
            head=head,
            runtime=self.runtime,
        )
