"""One set of classes for all models, so that every model's logits and every label mean the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from distill.compare.candidate import Candidate
from teachers.classmap import ClassMap
from teachers.classnames import readable


@dataclass(frozen=True)
class Space:
    """classes: their names. labels: for each class of the data its index among them; None: the data's are these."""

    classes: tuple[str, ...]
    labels: tuple[int, ...] | None
    candidates: tuple[Candidate, ...]


def agree(names: Sequence[str], candidates: Sequence[Candidate]) -> Space:
    """The classes in which the candidates are compared on data whose classes have these names, () where unknown.

    The classes are the data's. A model of more classes answers among those, by the names of its own; only where all
    models have the same further classes do they keep them, and the labels are looked up among them instead.
    ValueError if a model's classes are others, or in an order that nothing tells.
    """
    names = tuple(names) or next((candidate.names for candidate in candidates if candidate.names), ())
    count = len(names) or candidates[0].num_classes
    groups = [_indices(names, count, candidate) for candidate in candidates]
    first = candidates[0]
    alike = all(group == groups[0] for group in groups) and len({c.num_classes for c in candidates}) == 1
    if alike and first.num_classes > count:
        return Space(readable(_full_names(first, names, groups[0])), groups[0], tuple(candidates))
    named = names or tuple(str(index) for index in range(count))
    return Space(readable(named), None, tuple(_among(c, group) for c, group in zip(candidates, groups, strict=True)))


def own_names(candidate: Candidate) -> tuple[str, ...]:
    """What a model calls its classes, in the order of the logits: the most exact names that are known; () if none."""
    if candidate.names or not candidate.also_called:
        return candidate.names
    exact = candidate.also_called[0]
    return tuple(sorted(exact, key=exact.__getitem__))


def _indices(names: tuple[str, ...], count: int, candidate: Candidate) -> tuple[int, ...]:
    """The candidate's own class for each class of the data."""
    same_number = candidate.num_classes == count
    if not names or (same_number and candidate.names in ((), names) and not candidate.also_called):
        if same_number:
            return tuple(range(count))
        raise ValueError(f"{_has(candidate)} but {count} are compared; compare models of the same classes")
    if candidate.names == names:
        return tuple(range(count))
    tables = [{name: index for index, name in enumerate(candidate.names)}, *candidate.also_called]
    for table in tables:
        if all(name in table for name in names):
            found = tuple(table[name] for name in names)
            if len(set(found)) == count:
                return found
    if same_number and not candidate.names:
        return tuple(range(count))  # it has no names of its own; those of ImageNet were only a guess by their number
    unknown = next((name for name in names if not any(name in table for table in tables)), names[0])
    raise ValueError(
        f"{_has(candidate)}, none of which is {unknown!r}, a class of the data; compare models of the data's classes, "
        "or give images of theirs with --data"
    )


def _has(candidate: Candidate) -> str:
    some = f" ({', '.join(candidate.names[:3])}{', …' * (len(candidate.names) > 3)})" if candidate.names else ""
    return f"'{candidate.name}' has {candidate.num_classes} classes{some}"


def _among(candidate: Candidate, group: tuple[int, ...]) -> Candidate:
    if group == tuple(range(candidate.num_classes)):
        return candidate
    select = ClassMap([[index] for index in group])
    own, plain = candidate.logits, candidate.forward

    def mapped(views: Tensor) -> Tensor:
        logits = own(views)
        return select.to(logits.device)(logits)

    return replace(candidate, logits=mapped, forward=plain, num_classes=len(group), among=group)


def _full_names(candidate: Candidate, names: tuple[str, ...], group: tuple[int, ...]) -> tuple[str, ...]:
    """A name for each of a model's classes: the data's where it has one, else the model's most exact."""
    full = list(own_names(candidate)) or [str(index) for index in range(candidate.num_classes)]
    for name, index in zip(names, group, strict=True):
        full[index] = name
    return tuple(full)
