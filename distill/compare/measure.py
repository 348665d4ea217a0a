"""All candidates on the same images: the report, as report.json holds it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distill.compare import cost
from distill.compare.candidate import Candidate
from distill.compare.cka import MinibatchCKA
from distill.compare.classes import Space
from distill.compare.corruptions import CORRUPTIONS, STRENGTHS
from distill.compare.curves import curves
from distill.compare.seen import Corruption, Seen, seen, spread
from distill.compare.tally import Tally
from distill.compare.validation import Validation
from distill.console import Console
from distill.evaluate import summed
from distill.processes import from_main

if TYPE_CHECKING:
    from accelerate import Accelerator

SCHEMA = 1
AT_ONCE, PIXELS_AT_ONCE = 16, 2**18
"""Images whose grids are computed at once for CKA; of a whole batch the teacher's are the largest thing in a run."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is measured beside one pass over the images. None: no images, or for `images` all of them."""

    images: int | None = None
    cka_images: int = 1024
    corruption_images: int = 0
    cost: bool = True


AT_THE_END_OF_A_RUN = Extent(cka_images=256, cost=False)


class Comparison:
    """Candidates on the images of a validation set, in the classes of a space.

    alone: run folder -> the run folder of the same recipe without a teacher. scratch: where logits wait on disk.
    """

    def __init__(
        self,
        space: Space,
        validation: Validation,
        accelerator: Accelerator,
        console: Console,
        *,
        reference: Candidate | None,
        alone: Mapping[str, str] | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.space, self.validation = space, validation
        self.accelerator, self.console = accelerator, console
        self.candidates = list(space.candidates)
        self.reference = next((c for c in self.candidates if reference and c.key == reference.key), None)
        self.alone, self.scratch = dict(alone or {}), scratch
        table = space.labels
        self.labels = None if table is None else torch.tensor(table)

    def measure(self, extent: Extent) -> dict[str, Any]:
        """The report: a dict of schema 1, see docs/compare.md. The same on every process."""
        indices = spread(len(self.validation.images), extent.images)
        measured = self._one_pass(indices)
        if self.reference is not None and extent.cka_images:
            self._alike(measured, indices, extent.cka_images)
        robustness, uncorrupted, corrupted = self._robustness(indices, extent.corruption_images)
        expenses = self._cost() if extent.cost else [None] * len(self.candidates)
        models = []
        for number, candidate in enumerate(self.candidates):
            model = self._named(candidate) | measured[candidate.key]
            model["kept"] = self._kept(candidate, measured)
            model["over_alone"] = self._over_alone(candidate, measured)
            worse = {"robustness": robustness[number], "uncorrupted_top1": uncorrupted[number]}
            models.append(model | worse | {"cost": expenses[number]})
        labelled = sum(row["images"] for row in models[0]["per_class"])
        return finite(
            {
                "schema": SCHEMA,
                "data": {
                    "name": self.validation.name,
                    "images": len(indices),
                    "labelled": labelled,
                    "corrupted": corrupted,
                    "classes": list(self.space.classes),
                },
                "reference": self.reference.key if self.reference else None,
                "models": models,
                "curves": from_main(self.accelerator, self._curves),
            }
        )

    def _one_pass(self, indices: Sequence[int]) -> dict[str, dict[str, Any]]:
        classes = len(self.space.classes)
        tallies = {
            c.key: Tally(classes, compared=self.reference not in (None, c), folder=self.scratch)
            for c in self.candidates
        }
        for batch, labels, logits in self._logits("compare", indices):
            reference = logits[self.reference.key] if self.reference else None
            for key, tally in tallies.items():
                tally.add(logits[key], labels, batch.index, reference if tally.compared else None)
        reduce = summed(self.accelerator)
        found = {key: tally.result(len(indices), reduce, self._gather) for key, tally in tallies.items()}
        file = getattr(self.validation.images, "file", None)
        for result in found.values():
            result["disagreements"] = [
                entry | {"file": file(entry["index"]) if file else None} for entry in result["disagreements"]
            ]
        return found

    def _logits(self, title: str, indices: Sequence[int], corruptions: Sequence[Corruption | None] = (None,)):
        """(batch, labels, key -> logits [B, K] in float32) of this process's share of the images."""
        processes = self.accelerator.num_processes
        batches = seen(
            self.validation.images,
            [c.preprocess for c in self.candidates],
            indices=indices,
            process=self.accelerator.process_index,
            processes=processes,
            corruptions=corruptions,
        )
        with self.console.counting(title, len(indices) * len(corruptions)) as counter:
            for batch in batches:
                with torch.no_grad():
                    logits = {c.key: self._answer(c, batch) for c in self.candidates}
                yield batch, self._own_labels(batch), logits
                counter.advance(min(len(batch.index) * processes, counter.total - counter.done))

    def _answer(self, candidate: Candidate, batch: Seen) -> Tensor:
        views = batch.views[candidate.preprocess].to(self.accelerator.device, non_blocking=True)
        return candidate.logits(views).float()

    def _own_labels(self, batch: Seen) -> Tensor | None:
        if batch.labels is None:
            return None
        labels = batch.labels if self.labels is None else self.labels[batch.labels]
        return labels.to(self.accelerator.device)

    @torch.no_grad()
    def _alike(self, measured: dict[str, dict[str, Any]], indices: Sequence[int], most: int) -> None:
        """Fill in CKA, on at most so many images."""
        reference = self.reference
        assert reference is not None
        if reference.grids is None:
            return
        others = [c for c in self.candidates if c is not reference and c.grids is not None and c.layers]
        chosen = [indices[at] for at in spread(len(indices), most)]
        sums = {c.key: MinibatchCKA(len(c.layers), len(reference.layers)) for c in others}
        batches = seen(
            self.validation.images,
            [c.preprocess for c in (reference, *others)],
            indices=chosen,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )
        with self.console.rich.status("comparing layers"):
            for batch in batches:
                theirs = self._grids(reference, batch)
                for candidate in others:
                    sums[candidate.key].add(self._grids(candidate, batch), theirs)
        for candidate in others:
            cka = sums[candidate.key]
            cka.sums = summed(self.accelerator)(cka.sums)
            measured[candidate.key]["fidelity"]["cka"] = {
                "layers": list(candidate.layers),
                "reference_layers": list(reference.layers),
                "values": cka.values(),
                "images": len(chosen),
            }

    def _grids(self, candidate: Candidate, batch: Seen) -> list[Tensor]:
        assert candidate.grids is not None
        views = batch.views[candidate.preprocess].to(self.accelerator.device, non_blocking=True)
        at_once = min(AT_ONCE, max(PIXELS_AT_ONCE // math.prod(candidate.img_size), 1))
        if self.accelerator.is_fsdp2:  # whose processes call a divided model together, with batches of their own sizes
            at_once = len(views)
        parts = [candidate.grids(part, candidate.layers) for part in views.split(at_once)]
        return [torch.cat([grids[layer] for grids in parts]) for layer in candidate.layers]

    def _robustness(
        self, indices: Sequence[int], most: int
    ) -> tuple[list[dict[str, list[float]] | None], list[float | None], int]:
        """Of each candidate top-1 by corruption and strength, and without any, all on the same so many images."""
        chosen = [indices[at] for at in spread(len(indices), most)] if most else []
        if not chosen or self.validation.images[chosen[0]][1] < 0:
            return [None] * len(self.candidates), [None] * len(self.candidates), 0
        kinds: list[Corruption | None] = [None, *((name, strength) for name in CORRUPTIONS for strength in STRENGTHS)]
        right = torch.zeros(len(self.candidates), len(kinds), dtype=torch.float64)
        for batch, labels, logits in self._logits("corrupted", chosen, kinds):
            for number, candidate in enumerate(self.candidates):
                right[number, kinds.index(batch.corruption)] += (logits[candidate.key].argmax(-1) == labels).sum().cpu()
        shares = summed(self.accelerator)(right) / len(chosen)
        worse = shares[:, 1:].reshape(-1, len(CORRUPTIONS), len(STRENGTHS)).tolist()
        return [dict(zip(CORRUPTIONS, one, strict=True)) for one in worse], shares[:, 0].tolist(), len(chosen)

    def _cost(self) -> list[dict[str, Any] | None]:
        """By the main process, while the others wait and leave it the machine."""

        def found() -> list[dict[str, Any] | None]:
            with self.console.counting("cost", cost.timings(self.candidates), "timings") as counter:
                return cost.costs(self.candidates, self.accelerator.device, lambda: counter.advance(1))

        return from_main(self.accelerator, found)

    def _named(self, candidate: Candidate) -> dict[str, Any]:
        teacher = self._teacher_of(candidate)
        return {
            "key": candidate.key,
            "role": candidate.role,
            "name": candidate.name,
            "source": candidate.source,
            "run": candidate.run,
            "alone": self.alone.get(candidate.run or ""),
            "teacher": teacher.key if teacher else None,
            "params": candidate.params,
            "img_size": list(candidate.img_size),
        }

    def _teacher_of(self, candidate: Candidate) -> Candidate | None:
        if candidate.role != "student" or candidate.taught_by is None:
            return None
        return next((c for c in self.candidates if c.role == "teacher" and c.taught_by == candidate.taught_by), None)

    def _kept(self, candidate: Candidate, measured: Mapping[str, dict[str, Any]]) -> float | None:
        whole = self._teacher_of(candidate) or self.reference
        own = measured[candidate.key]["top1"]
        of = measured[whole.key]["top1"] if whole else None
        return own / of if own is not None and of else None

    def _over_alone(self, candidate: Candidate, measured: Mapping[str, dict[str, Any]]) -> float | None:
        """How much more of the images it is right on than the same student without a teacher, where that was named."""
        run = self.alone.get(candidate.run or "")
        alone = next((c for c in self.candidates if run and c.run == run), None)
        own, its = measured[candidate.key]["top1"], measured[alone.key]["top1"] if alone else None
        return own - its if own is not None and its is not None else None

    def _curves(self) -> dict[str, Any]:
        found = {c.run: curves(Path(c.run), c.role) for c in self.candidates if c.run}
        return {run: points for run, points in found.items() if points}

    def _gather(self, value: Any) -> list[Any]:
        from accelerate.utils import gather_object

        return gather_object([value]) if self.accelerator.num_processes > 1 else [value]


def finite(value: Any) -> Any:
    """The value with None for every number in it that JSON has no word for, such as an infinite KL."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
