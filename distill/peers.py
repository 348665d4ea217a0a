"""What processes tell each other as they fail, so that a person reads each failure once and none of its echoes."""

from __future__ import annotations

import hashlib
import os
import sys
from datetime import timedelta

from distill.masked import without_secrets

PATIENCE_SECONDS = 3.0


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
