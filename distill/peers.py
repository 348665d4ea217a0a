"""What processes tell each other as they fail, so that a person reads each failure once and none of its echoes."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from contextlib import suppress
from datetime import timedelta

from distill.masked import without_secrets

PATIENCE_SECONDS = 3.0
LONGEST_HOURS = 12.0
"""That one process may work alone while the others wait for it."""
LOOK_SECONDS = 1.0
"""So often those who wait for long look whether it has come, or has failed."""


class Peers:
    """This process among those of the run, which meet in the key-value store that the launcher set up.

    Usable before, during and after torch's process group, and without a store, where each speaks for itself.
    """

    def __init__(self) -> None:
        self.rank, self.count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self._attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = self._connected() if self.count > 1 else None

    def say(self, text: str) -> None:
        """Print a failure unless another process prints the same; the first process speaks before the others."""
        if self._store is None:
            _print(text, self.rank)
            return
        try:
            self._store.add(self._key("failures"), 1)
            if self.rank == 0:
                self._store.set(self._key("main"), text)
            else:
                self._hear_main()
            first = self._store.add(self._key(hashlib.sha256(text.encode()).hexdigest()), 1) == 1
        except Exception:  # whoever held the store is gone
            first = True
        if first:
            _print(text, self.rank)

    def have_failed(self) -> bool:
        """Whether a process has said why it fails. False where none did, as when one is killed."""
        try:
            return self._store is not None and self._store.add(self._key("failures"), 0) > 0
        except Exception:
            return False

    def gather(self, place: str) -> None:
        """Return once all processes have come to a place that each comes to once; or without them.

        That is where another has failed, the store is lost or LONGEST_HOURS are over: the collective that follows says
        so. A collective of torch's own is given up after 10 minutes, as NCCL's timeout is, whoever is still at work.
        """
        if self._store is None:
            return
        here, all_here, until = self._key(place), self._key(f"{place}, all"), time.monotonic() + LONGEST_HOURS * 3600
        pause = 0.01
        with suppress(Exception):  # the store is gone
            if self._store.add(here, 1) == self.count:
                self._store.set(all_here, "")
            # Not the store's own wait, whose end by a timeout is a warning on the terminal.
            while not self._store.check([all_here]) and not self.have_failed() and time.monotonic() < until:
                time.sleep(pause)
                pause = min(2 * pause, LOOK_SECONDS)

    def _hear_main(self) -> None:
        assert self._store is not None
        try:
            self._store.wait([self._key("main")], timedelta(seconds=PATIENCE_SECONDS))
        except Exception:  # it does not fail, or is gone
            return

    def _key(self, name: str) -> str:
        return f"distill/{self._attempt}/{name}"

    def _connected(self):
        from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

        try:
            place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            return TCPStore(*place, is_master=False, timeout=timedelta(seconds=5))
        except Exception:  # no launcher of torch's, or its store is gone
            return None


def _print(text: str, rank: int) -> None:
    kind, colon, rest = without_secrets(text).partition(": ")
    print(f"{kind}{colon}[rank {rank}] {rest}" if rank else text, file=sys.stderr, flush=True)
