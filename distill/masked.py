"""Texts without the secrets of the URLs in them: for the terminal, for files that are kept, for cards."""

from __future__ import annotations

import re

MASK = "***"
_URL = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>]+")
_USER = re.compile(r"(?<=://)[^/?#]*@")
_VALUE = re.compile(r"(?<=[?&;])([^=&;#]+)=[^&;#]*")


def without_secrets(text: str) -> str:
    """A text whose URLs have *** for user and password, and for each value of a query.

    "https://me:pw@host/a.tar?token=t" -> "https://***@host/a.tar?token=***". Which values are secret is known only to
    the host, so all go; a URL that was signed anew is then still the same one.
    """
    return _URL.sub(lambda url: _VALUE.sub(rf"\1={MASK}", _USER.sub(f"{MASK}@", url[0])), text)


def is_masked(url: str) -> bool:
    """Whether something was taken out of a URL, so that it opens nothing."""
    return f"://{MASK}@" in url or f"={MASK}" in url
