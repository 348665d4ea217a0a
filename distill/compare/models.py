"""From a loaded model to a candidate: a run's student, its teacher, and any timm model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from distill import preparation
from distill.compare.candidate import Candidate
from distill.compare.terms import Terms
from students import ViT
from students.outputs import Shapes
from students.preprocess import Preprocess
from teachers import FrozenTeacher, Teacher, own_student, source
from teachers.classnames import class_names, named
from teachers.ensemble import AnyTeacher
from teachers.frozen_ensemble import AnyFrozen, FrozenEnsemble
from teachers.runtime.eager import eager

if TYPE_CHECKING:
    from accelerate import Accelerator

DEPTHS = (0.25, 0.5, 0.75, 1.0)
"""The layers that are matched between models, as shares of the depth."""


def student_candidate(
    model: ViT,
    folder: Path,
    accelerator: Accelerator,
    *,
    baseline: bool,
    terms: Terms,
    names: Sequence[str],
    taught_by: str | None = None,
) -> Candidate:
    """The student of a run folder, in eval mode on the accelerator's device."""
    config = model.eval().config
    prepare = Preprocess(config.img_hw, config.input_mean, config.input_std).to(accelerator.device)
    forward = _under_autocast(model, accelerator)

    def grids(views: Tensor, layers: Sequence[int]) -> Mapping[int, Tensor]:
        with accelerator.autocast():
            return model.outputs(prepare(views), layers).grids

    return Candidate(
        role="baseline" if baseline else "student",
        name=folder.absolute().name,
        source=str(folder),
        run=str(folder),
        taught_by=None if baseline else taught_by,
        params=num_params(model),
        num_classes=config.known_classes(),
        preprocess=terms,
        prepare=prepare,
        logits=lambda views: forward(prepare(views)),
        forward=forward,
        module=model,
        img_size=config.img_hw,
        grids=grids,
        layers=_matched(config.shapes()),
        names=tuple(names),
        file=folder / "student" / "model.safetensors",
    )


def teacher_candidate(
    teacher: AnyFrozen,
    accelerator: Accelerator,
    *,
    terms: Terms,
    names: Sequence[str],
    source: str = "",
    taught_by: str | None = None,
    file: Path | None = None,
) -> Candidate:
    """A teacher, on the terms on which it teaches."""

    def logits(views: Tensor) -> Tensor:
        with accelerator.autocast():
            return teacher(views).logits

    def grids(views: Tensor, layers: Sequence[int]) -> Mapping[int, Tensor]:
        with accelerator.autocast():
            return teacher(views, layers).grids

    one = isinstance(teacher, FrozenTeacher)
    module = teacher.model if one else None
    return Candidate(
        role="teacher",
        name=short_name(teacher.name),
        source=source or teacher.name,
        taught_by=taught_by,
        params=teacher.num_params(),
        num_classes=teacher.num_classes,
        preprocess=terms,
        prepare=teacher.preprocess if one else lambda views: views,
        logits=logits,
        forward=_under_autocast(_plain(teacher), accelerator),
        module=module.student if isinstance(module, own_student.StudentCore) else module,
        img_size=teacher.preprocess.img_size if one else terms.img_size,
        grids=grids if teacher.shapes.grids else None,
        layers=_matched(teacher.shapes),
        names=tuple(names),
        file=file,
    )


def timm_candidate(word: str, accelerator: Accelerator, *, fast: bool) -> Candidate:
    """A timm name or folder, on its own terms. fast: on the fastest runtime that agrees with eager PyTorch.

    ValueError if timm has no such model, or its weights cannot be had.
    """
    config = Teacher(name=word, runtime="auto" if fast else "eager")
    told = preparation.of_model(word)
    if told.num_classes < 1:
        raise ValueError(f"'{short_name(word)}' has no class head, so it decides nothing; name a model with one")
    teacher = config.build().start(accelerator.device)
    candidate = teacher_candidate(
        teacher,
        accelerator,
        terms=Terms(told.view_size or told.img_size, told.in_chans, told.crop_pct, told.interpolation, told.crop_mode),
        names=told.label_names,
        source=config.weights_source(),
        file=weights_file(config),
    )
    return replace(candidate, role="model", also_called=_also_called(config, told.label_names))


def short_name(name: str) -> str:
    """What a model is called in a table: a folder by its last part, a run's student by its run as well."""
    path = Path(name.removeprefix("local-dir:"))
    if not path.is_dir():
        return name
    path = path.resolve()
    return f"{path.parent.name}/{path.name}" if path.name == "student" else path.name


def num_params(module: nn.Module) -> int:
    """Numbers in the parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def _also_called(config: Teacher, names: Sequence[str]) -> tuple[Mapping[str, int], ...]:
    folder = Path(config.name.removeprefix("local-dir:"))
    if folder.is_dir() and "student" in preparation.read_config(folder):
        return named(names)  # a student's classes are what it was saved with, not ImageNet's for being as many
    return class_names(source.plan(config).skeleton)


def weights_file(teacher: AnyTeacher) -> Path | None:
    """The file that the weights were read from; None where there is none, or none alone."""
    if not isinstance(teacher, Teacher):
        return None
    if teacher.checkpoint is not None:
        return Path(teacher.checkpoint)
    if folder := own_student.folder(teacher):
        return _weights_in(folder)
    plan = source.plan(teacher)
    kind, _, place = plan.timm_name.partition(":")
    return plan.packaged or (_weights_in(Path(place)) if kind == "local-dir" else _downloaded(plan))


def _weights_in(folder: Path) -> Path | None:
    found = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    return found[0] if found else None


def _downloaded(plan: source.Plan) -> Path | None:
    hub = plan.skeleton.pretrained_cfg.get("hf_hub_id")
    if not hub:
        return None
    from huggingface_hub import try_to_load_from_cache

    for name in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(hub, name)
        if isinstance(found, str):
            return Path(found)
    return None


def _plain(teacher: AnyFrozen) -> Callable[[Tensor], Tensor]:
    """What `prepare` gives -> logits [B, K], in plain PyTorch, whatever runtime the teacher was started for."""
    if isinstance(teacher, FrozenEnsemble):
        # A copy is eager: a runtime's session belongs to its owner. The weights are shared.
        import copy

        copies = [copy.copy(member) for member in teacher.members]
        together = FrozenEnsemble(copies, shares=teacher.shares, average=cast(Any, teacher.average))
        return lambda views: together(views).logits

    def forward(x: Tensor) -> Tensor:
        logits, embedding, _ = eager(teacher.model, x, ())
        if teacher.head is not None:
            logits = teacher.head(embedding)
        # A model without a head of its own gives its embedding for logits, of which none is left.
        return logits[:, : teacher.num_classes] if teacher.class_map is None else teacher.class_map(logits)

    return forward


def _under_autocast(forward: Callable[[Tensor], Tensor], accelerator: Accelerator) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        with accelerator.autocast():
            return forward(x)

    return run


def _matched(shapes: Shapes) -> tuple[int, ...]:
    return tuple(sorted(set(shapes.layers(DEPTHS)))) if shapes.grids else ()
