"""Paths of one machine, which say nothing to another and may tell whose it is, taken out of what is published."""

from __future__ import annotations

import re
from typing import Any

# A root, or a home, and every folder below it: what is left is the last name. A slash behind a word or another slash
# is inside a relative path or an address ("timm/resnet50", "https://").
_ABSOLUTE = re.compile(r"(?:file://|(?<![\w/.])(?:~[\w.-]*)?)(?:/(?!/)|[A-Za-z]:[\\/]|\\\\)(?:[^/\\\n]*[/\\])*")


def without_paths(value: Any) -> Any:
    """JSON values with the folders of every absolute path in their strings left out: "/data/me/birds" -> "birds"."""
    if isinstance(value, dict):
        return {without_paths(key): without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(item) for item in value]
    if isinstance(value, str):
        return _ABSOLUTE.sub("", value)
    return value
