"""Reading: a folder of saved outputs in the teacher's place."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from distill import folder as run_folder
from distill.console import Console
from distill.loader import Batch
from distill.preflight import Plan
from distill.saved.manifest import Manifest, Shard, sha256
from distill.teaching import HEADS
from students.outputs import Outputs

RUN_FILE = "saved_outputs.json"  # in a run folder: what taught it
AGAIN = "remove that file and save again with the same command, which writes what is missing"


class SavedOutputs:
    """What the teacher said about each view of `epochs` epochs, read from memory-mapped shards.

    verify: compare a shard's checksum as it is first used.
    """

    def __init__(self, folder: Path, manifest: Manifest, device: torch.device, *, verify: bool) -> None:
        self.folder, self.manifest, self.device, self.verify = folder, manifest, device, verify
        self._shards = {(shard.epoch, shard.start): shard for shard in manifest.shards(folder)}
        self._verified: set[Path] = set()
        self._open: tuple[Path | None, np.ndarray] = None, np.empty(0)

    @property
    def epochs(self) -> int:
        return self.manifest.epochs

    def __call__(self, batch: Batch) -> Outputs:
        """Logits [B, K] and, where it was saved, embedding [B, D] of a batch, float32 on the device.

        ValueError, with its name, if the batch's shard is damaged.
        """
        number, start = divmod(batch.position, self.manifest.shard_images)
        shard = self._shards[batch.epoch, number * self.manifest.shard_images]
        assert start + len(batch.index) <= shard.rows  # a shard is whole batches
        rows = self._rows(shard)[start : start + len(batch.index)]
        try:
            return self.manifest.answers.outputs(rows, self.device)
        except ValueError as error:
            raise ValueError(f"{shard.path} is damaged: {error}; {AGAIN}") from None

    def verify_all(self, console: Console) -> None:
        """Compare every shard's checksum. ValueError with the name of the first that is damaged."""
        with console.counting("checksums", self.epochs * self.manifest.positions) as counter:
            for shard in self._shards.values():
                self._verify(shard)
                counter.advance(shard.rows)

    def shown_in(self, plan: Plan) -> Plan:
        """The plan with the views of the saved epochs, in turn."""
        return replace(plan, layout=replace(plan.layout, views_epochs=self.epochs))

    def note_in(self, out: Path) -> None:
        """Leave in a new run folder what teaches it, and the teacher's fitted head for later comparisons."""
        run_folder.write(out / RUN_FILE, self.manifest.as_json())
        for head in self.folder.glob(f"{HEADS}*.safetensors"):
            shutil.copyfile(head, out / head.name)

    def describe(self) -> str:
        """What is in the folder, in a phrase."""
        kept = self.manifest.answers
        what = "all logits" if kept.k is None else f"the top {kept.k} logits"
        more = " and embeddings" if kept.embedding else ""
        return f"{what}{more} of {self.epochs} epochs in {kept.dtype}, from {self.folder}; it is not loaded"

    def _rows(self, shard: Shard) -> np.ndarray:
        if self._open[0] != shard.path:
            if not shard.is_whole(self.manifest.answers.bytes_per_image):
                raise ValueError(f"{shard.path} is missing or cut short; {AGAIN}")
            if self.verify and shard.path not in self._verified:
                self._verify(shard)
            mapped = np.memmap(shard.path, dtype=self.manifest.answers.row, mode="r", shape=(shard.rows,))
            self._open = shard.path, mapped
        return self._open[1]

    def _verify(self, shard: Shard) -> None:
        try:
            expected = shard.checksum.read_text(encoding="utf-8").split()[0]
        except (OSError, ValueError, IndexError):
            raise ValueError(f"{shard.checksum}, the checksum of {shard.path.name}, cannot be read; {AGAIN}") from None
        if sha256(shard.path) != expected:
            raise ValueError(f"{shard.path} is damaged: it does not match its checksum; {AGAIN}")
        self._verified.add(shard.path)
