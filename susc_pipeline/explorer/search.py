"""The search index: sorted keys in files of equal length, so that a query loads the one file in which it falls.

Keys are compared as the page compares strings: by UTF-16 code unit.
"""

from pathlib import Path
from typing import Any, NamedTuple

from susc_pipeline.explorer import payload

WHITESPACE = " \t\r\n"


class Entry(NamedTuple):
    """What is found under a key."""

    key: str
    content: list[Any]


def token_key(text: str) -> str:
    """A token is found without its outer whitespace and in any case; one that is nothing but whitespace as it is."""
    return text.strip(WHITESPACE).lower() or text


def write(folder: Path, name: str, entries: list[Entry], *, per_file: int) -> list[str]:
    """Write the entries in order of key as `<name>/0000.js` and on; the first key of each file."""
    ordered = sorted(entries, key=lambda entry: code_units(entry.key))
    firsts = []
    for number, start in enumerate(range(0, len(ordered), per_file)):
        chunk = ordered[start : start + per_file]
        firsts.append(chunk[0].key)
        payload.write(folder, f"{name}/{number:04d}", [[entry.key, *entry.content] for entry in chunk])
    return firsts


def code_units(text: str) -> bytes:
    """The key by which the page's strings are ordered."""
    return text.encode("utf-16-be", "surrogatepass")
