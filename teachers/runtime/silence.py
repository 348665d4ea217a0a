"""Exporters and compilers print and log what no user can act on; the error that they raise is enough."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing is printed, warned about or, below an error, logged in here."""
    before = logging.root.manager.disable
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        stack.callback(logging.disable, before)
        logging.disable(logging.ERROR)
        yield


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says, 300 characters at most."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:300].rstrip(": .")
