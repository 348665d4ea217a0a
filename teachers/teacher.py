"""Which model teaches, with which weights, at which size: a value, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from students.outputs import Shapes
    from teachers.classmap import ClassMap
    from teachers.frozen import FrozenTeacher
    from teachers.head import Head

RuntimeName = Literal["auto", "eager", "inductor", "onnxruntime", "tensorrt"]


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

    calibrate: bool = False
    """With head "fit": divide its logits by a temperature that is fitted on a tenth of the images, held out for it."""

    class_map: str | None = None
    """For a teacher of other or more classes: a JSON file {your class: its index or name, or a list of them}, or
    "names" where its classes of the same names stand for yours; none: its classes are yours."""

    runtime: RuntimeName = "auto"
    """How it runs, checked against eager PyTorch at the start; "auto": onnxruntime on a CPU, inductor on a CUDA GPU."""

    def __post_init__(self) -> None:
        if self.class_map not in (None, "names"):
            object.__setattr__(
                self, "class_map", str(Path(self.class_map).absolute())
            )  # for other folders' recipe.json

    def shapes(self) -> Shapes:
        """The shapes of the model's `Outputs`, with its own head, from a model without weights on the meta device.

        Nothing is downloaded, but for an "hf-hub:" name its config.json; of a checkpoint only the number of classes
        is read. A model without `forward_intermediates` has no grids.
        """
        from teachers import own_student, source

        if student := own_student.folder(self):
            return own_student.shapes(self, student)
        return source.shapes(source.plan(self))

    def label_names(self) -> tuple[str, ...] | None:
        """The names of the K classes in the order of the logits, or None where the model does not carry them."""
        from teachers import own_student, source

        if student := own_student.folder(self):
            return own_student.label_names(student)
        names = source.plan(self).skeleton.pretrained_cfg.get("label_names")
        return tuple(names) if names else None

    def mapped(self, classes: Sequence[str]) -> ClassMap | None:
        """The class map for your classes, or None where the teacher has none. ValueError if it does not fit."""
        if self.class_map is None:
            return None
        from teachers import own_student, source
        from teachers.classmap import ClassMap
        from teachers.classnames import class_names, named

        if own_student.folder(self):
            count, names = self.shapes().num_classes, named(self.label_names() or ())
        else:
            model = source.plan(self).skeleton
            count, names = model.num_classes, class_names(model)
        return ClassMap.read(
            self.class_map,
            classes=classes,
            num_teacher_classes=count,
            teacher_names=names,
            teacher=f"'{self.name}'",
        )

    def weights_source(self) -> str:
        """Where the weights come from, in a phrase: "hub timm/resnet50.a1_in1k", "checkpoint best.pth"."""
        from teachers import own_student, source

        if student := own_student.folder(self):
            return f"folder {student}"
        return source.plan(self).weights_source

    def weights_here(self) -> bool:
        """Whether the weights can be read without a network: a file, a package, or already fetched from the hub."""
        from teachers import own_student, source

        return own_student.folder(self) is not None or source.plan(self).weights_here

    def build(
        self,
        *,
        head: Head | None = None,
        class_map: ClassMap | None = None,
        layers: Sequence[int] = (),
        pretrained: bool = True,
    ) -> FrozenTeacher:
        """The frozen module on the CPU, running eagerly until its `start`.

        head: a fitted head that answers instead of the model's own; with `head="fit"` and no head yet, the module
        still answers with its own, which is what a head is fitted on.
        class_map: what `mapped` gave for your classes; without it the module answers for its own.
        layers: layers that will be asked for; one that does not exist is an error before any weight is read.
        pretrained: False leaves the weights random, for a rehearsal.
        """
        from students.preprocess import Preprocess
        from teachers import own_student, source
        from teachers.frozen import FrozenTeacher

        if student := own_student.folder(self):
            source.check_layers(self.name, own_student.shapes(self, student), layers)
            return own_student.build(self, student, head, class_map)
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
            class_map=class_map,
            runtime=self.runtime,
        )
