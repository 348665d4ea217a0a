"""The model hub: whether its files are on this machine, and whether it answers, found out in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE_SECONDS = 5.0


def cached(repo: str, filename: str | None = None) -> bool:
    """Whether a timm model's weights, "ORG/NAME" or "ORG/NAME@REVISION", lie in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = repo.partition("@")
    files = (filename,) if filename else ("model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(name, file, revision=revision or None), str) for file in files)


def answers() -> bool:
    """Whether the hub answers at all, within a few seconds."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE_SECONDS)
    except Exception:  # network libraries raise whatever they like
        return False
    return True


@contextmanager
def without_retries() -> Iterator[bool]:
    """Within, a hub that does not answer is asked for nothing more: only its cache is used. Gives whether that is so.

    Its library asks six times for each of several files, which is minutes of waiting for one line.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not answers()
    try:
        yield constants.HF_HUB_OFFLINE
    finally:
        constants.HF_HUB_OFFLINE = before
