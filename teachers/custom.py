"""Any nn.Module as a teacher: the function that makes it, and the names of what is read in it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal

from teachers.teacher import RuntimeName

if TYPE_CHECKING:
    from torch import nn

    from students.outputs import Shapes
    from teachers.frozen import FrozenTeacher
    from teachers.head import Head

    Function = str | Callable[[], nn.Module]
else:
    Function = str  # what becomes of it, and what the command line takes


@dataclass(frozen=True, kw_only=True)
class Custom:
    """Your own module as a teacher: `Custom(model=my_model, img_size=96, mean=(...), std=(...))`.

    The module takes normalised images [B, C, H, W], C being the length of mean, and returns logits [B, K], or a tuple
    that begins with them, or an object that has them as `logits`. It is made once to look at its shapes and again to
    teach, each time with the same random numbers. A recipe.json holds the function's name; what reads it, such as
    `python -m distill compare`, must be given the script that has the function.
    ValueError from any method says which field is wrong and what would do.
    """

    model: Function
    """A function of no arguments that returns the module with its weights, or its name, as "__main__:my_model"."""

    img_size: int | tuple[int, int]
    """Pixels, or height and width, that views are resized to."""

    mean: tuple[float, ...]
    """Mean that its images are normalised with, one number a channel, in 0..1."""

    std: tuple[float, ...]
    """Standard deviation that its images are normalised with, one number a channel."""

    layers: tuple[str, ...] = ()
    """Names of submodules, as in `named_modules()`, whose outputs are grids [B, C, H, W] or tokens [B, N, C]; losses
    name them so, or by number from 0, or as a fraction of the list."""

    prefix_tokens: int = 0
    """Tokens before those of the grid, such as a class token, in a layer that gives tokens."""

    classifier: str | None = None
    """Name of the submodule that makes logits of the embedding [B, D]; none: there is no embedding."""

    classes: tuple[str, ...] = ()
    """Names of the classes in the order of the logits, if a student is to learn them without labels."""

    head: Literal["own", "fit"] = "own"
    """"own": the module's logits; "fit": a linear head fitted on the embeddings of your data."""

    fit_images: int = 10_000
    """With head "fit": the largest number of training images it is fitted on, each seen plain and augmented once."""

    runtime: RuntimeName = "auto"
    """How it runs, checked against eager PyTorch at the start; "auto": onnxruntime on a CPU, inductor on a CUDA GPU."""

    def __post_init__(self) -> None:
        if not isinstance(self.model, str):
            object.__setattr__(self, "model", _name_of(self.model))
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} must have one number a channel, std above 0")
        if min((self.img_size,) if isinstance(self.img_size, int) else self.img_size) < 1:
            raise ValueError(f"img_size is {self.img_size}; use 1 px or more")
        if self.head == "fit" and self.classifier is None:
            raise ValueError("head 'fit' reads the embedding; name the submodule that makes logits of it: classifier")

    @property
    def name(self) -> str:
        """The function's name."""
        return str(self.model).partition(":")[2] or str(self.model)

    def shapes(self) -> Shapes:
        """The shapes of the module's `Outputs`, from running it on two black images on the CPU."""
        from teachers import hooked

        return hooked.shapes(self, hooked.make(self))

    def label_names(self) -> tuple[str, ...] | None:
        """The names of the K classes in the order of the logits, or None where none were given."""
        return self.classes or None

    def weights_source(self) -> str:
        """Where the weights come from, in a phrase."""
        return f"function {self.model}"

    def weights_here(self) -> bool:
        """True: the function brings its own."""
        return True

    def build(self, *, head: Head | None = None, layers: Sequence[int] = (), pretrained: bool = True) -> FrozenTeacher:
        """As `Teacher.build`. pretrained is not used: the function decides on the weights."""
        from teachers import hooked
        from teachers.frozen import FrozenTeacher
        from teachers.source import check_layers

        model = hooked.make(self)
        shapes = hooked.shapes(self, model)
        check_layers(self.name, shapes, layers)
        return FrozenTeacher(
            model,
            name=self.name,
            shapes=shapes,
            preprocess=hooked.preprocess(self),
            head=head,
            runtime=self.runtime,
        )


def _name_of(function: Any) -> str:
    """module:name of a function. ValueError if that name does not lead back to it."""
    name = f"{getattr(function, '__module__', None)}:{getattr(function, '__qualname__', None)}"
    try:
        found = function_named(name)
    except ValueError:
        found = None
    if found is None or found is not function:
        raise ValueError(
            f"model is {_described(function)}, which recipe.json cannot name; give a function of the script or of a "
            "module that takes no arguments, as def my_model(): ..., and model=my_model"
        )
    return name


def _described(value: Any) -> str:
    return getattr(value, "__qualname__", None) or f"a {type(value).__name__}"


def function_named(name: str) -> Callable[[], Any]:
    """The function of an imported module by its "module:name". ValueError if there is none."""
    # A recipe.json may come from others: nothing is imported for its sake.
    module, _, attribute = name.partition(":")
    function: Any = getattr(sys.modules.get(module), attribute, None)
    if not (isinstance(function, FunctionType) or hasattr(function, "forward")):
        raise ValueError(f"teacher function {name} is not imported here; name its script with --script FILE")
    return function
