"""Credentials inside URLs, `scheme://user:password@host`: found, so that they are refused, and hidden from messages.

A password of an experiment's file would end up in logs, metadata and the explorer. It belongs into the environment.
"""

import re

# One slash too: that is what a path library leaves of two.
IN_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/{1,2})[^/?#\s]*@")


def are_in(text: str) -> bool:
    """Whether the text holds a URL with a user or a password."""
    return IN_URL.search(text) is not None


def hidden(text: str) -> str:
    """The text with every user and password of a URL replaced by three dots."""
    return IN_URL.sub(r"\1…@", text)
