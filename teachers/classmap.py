"""Class maps: a teacher of other or more classes answers for yours."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

BY_NAME = "names"
"""Instead of a file: every class is the teacher's class of the same name."""


class ClassMap(nn.Module):
    """Logits of the teacher's classes [B, T] -> logits of yours [B, K].

    The logit of a class that stands for several of the teacher's is the logsumexp of theirs, so that its probability is
    the sum of theirs. Classes of the teacher that no class of yours stands for are left out: softmax over what is left
    is the teacher's probability given that the image shows one of your classes.

    groups: for each of your classes, the teacher's indices.
    """

    index: Tensor
    absent: Tensor

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.groups = tuple(tuple(group) for group in groups)
        longest = max(len(group) for group in self.groups)
        index = torch.tensor([[*group, *[group[0]] * (longest - len(group))] for group in self.groups])
        absent = torch.tensor([[at >= len(group) for at in range(longest)] for group in self.groups])
        self.register_buffer("index", index, persistent=False)  # [K, largest group]
        self.register_buffer("absent", absent, persistent=False)

    def __len__(self) -> int:
        return len(self.groups)

    def forward(self, logits: Tensor) -> Tensor:
        if self.index.shape[1] == 1:
            return logits[:, self.index[:, 0]]
        return logits[:, self.index].masked_fill(self.absent, float("-inf")).logsumexp(-1)

    @classmethod
    def read(
        cls,
        where: str,
        *,
        classes: Sequence[str],
        num_teacher_classes: int,
        teacher_names: Sequence[Mapping[str, int]] = (),
        teacher: str = "the teacher",
    ) -> Self:
        """The map in a JSON file, an object of {your class: index or name of the teacher's, or a list of them}.

        where: the file, or "names": every class of yours is the teacher's of the same name.
        teacher_names: what the teacher's classes are called, in order of preference: synsets, descriptions.
        ValueError, with the nearest name, for a class that is missing, unknown, out of range, or given away twice.
        """
        if not classes:
            raise ValueError(
                "a class map says what your classes are to the teacher, and unlabelled images have none; "
                "leave out --teacher.class-map, or give labels"
            )
        content = {name: name for name in classes} if where == BY_NAME else _content(Path(where))
        place = "class map 'names'" if where == BY_NAME else f"class map {where}"
        missing = [name for name in classes if name not in content]
        if missing:
            raise ValueError(
                f"{place} has no entry for {_some(missing)}{_nearest(missing[0], content)}; "
                "give each of your classes one of the teacher's, or a list of them"
            )
        unknown = [name for name in content if name not in set(classes)]
        if unknown:
            raise ValueError(
                f"{place} has entries for {_some(unknown)}, which are no classes of the data"
                f"{_nearest(unknown[0], classes)}; remove or rename them"
            )
        owner: dict[int, str] = {}
        groups = []
        for name in classes:
            group = [
                _resolve(entry, name, place, num_teacher_classes, teacher_names, teacher)
                for entry in _list(content[name])
            ]
            if not group:
                raise ValueError(f"{place} gives {name!r} an empty list; name one class of {teacher} or more")
            for index in group:
                if owner.setdefault(index, name) != name or group.count(index) > 1:
                    raise ValueError(
                        f"{place} uses class {index} of {teacher} for {owner[index]!r} and again for {name!r}; "
                        "a class of the teacher can stand in one place"
                    )
            groups.append(group)
        return cls(groups)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_each_once)
    except OSError as error:
        raise ValueError(f"class map {path} cannot be read ({error.strerror}); name a JSON file, or 'names'") from None
    except ValueError as error:
        raise ValueError(f"class map {path} is no JSON ({error}); it is {_FORM}") from None
    if not isinstance(content, dict):
        raise ValueError(f"class map {path} holds a {type(content).__name__}; it is {_FORM}")
    return content


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # JSON keeps the last without a word
        twice = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"{twice!r} has two entries")
    return found


_FORM = 'an object such as {"cat": [281, 282], "dog": "n02099712"}'


def _resolve(
    entry: Any, own: str, place: str, count: int, teacher_names: Sequence[Mapping[str, int]], teacher: str
) -> int:
    if isinstance(entry, int) and not isinstance(entry, bool):
        if not 0 <= entry < count:
            raise ValueError(
                f"{place} gives {own!r} class {entry} but {teacher} has {count} classes; use 0 to {count - 1}"
            )
        return entry
    if not isinstance(entry, str):
        raise ValueError(f"{place} gives {own!r} {entry!r}; use an index, a name, or a list of them")
    for names in teacher_names:
        if entry in names:
            return names[entry]
    if not teacher_names:
        raise ValueError(
            f"{place} gives {own!r} the name {entry!r} but {teacher} carries no names of its {count} classes; "
            f"use indices, 0 to {count - 1}"
        )
    near = next((found for names in teacher_names if (found := _nearest(entry, names))), "")
    way_out = "" if near else f"; use one of its names or an index, 0 to {count - 1}"
    raise ValueError(f"{place} gives {own!r} the name {entry!r}, which {teacher} does not have{near}{way_out}")


def _list(entry: Any) -> list[Any]:
    return entry if isinstance(entry, list) else [entry]


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more
