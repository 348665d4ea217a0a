"""An order of shards that reads them nearly one after the other, and is a function of its seed alone."""

from __future__ import annotations

import numpy as np


class GroupedOrder:
    """Cut by slices: indices [n] of the samples at places of the order. One group's order is in memory at a time.

    The shards are shuffled and taken in groups of `group_shards`; the samples of a group are shuffled together.
    """

    def __init__(self, counts: np.ndarray, group_shards: int, seed: int) -> None:
        self.counts, self.group_shards, self.seed = counts, group_shards, seed
        self.shards = np.random.default_rng(seed).permutation(len(counts))
        self.starts = np.cumsum(counts) - counts
        ends = np.cumsum(counts[self.shards])
        self.ends = ends[np.minimum(np.arange(group_shards, len(counts) + group_shards, group_shards), len(counts)) - 1]
        self._kept: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, step = part.indices(len(self))
        assert step == 1, "an order is cut in one piece"
        pieces = [np.zeros(0, dtype=np.int64)]
        group = int(np.searchsorted(self.ends, start, side="right"))
        while start < stop:
            begin = int(self.ends[group - 1]) if group else 0
            piece = self._group(group)[start - begin : stop - begin]
            pieces.append(piece)
            start += len(piece)
            group += 1
        return np.concatenate(pieces)

    def _group(self, group: int) -> np.ndarray:
        if self._kept is None or self._kept[0] != group:
            shards = self.shards[group * self.group_shards : (group + 1) * self.group_shards]
            members = np.concatenate([np.arange(int(self.counts[s])) + self.starts[s] for s in shards])
            rng = np.random.default_rng((self.seed, group))
            self._kept = group, rng.permutation(members)
        return self._kept[1]
