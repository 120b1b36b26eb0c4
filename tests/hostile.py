"""The law that every reader of outside data is held to, and strategies that make such data."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

ALWAYS = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
settings.register_profile("quick", max_examples=60, derandomize=True, **ALWAYS)
settings.register_profile("thorough", max_examples=1000, **ALWAYS)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

MAX_MESSAGE = 3000  # characters
ODD_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "..\\x",
    "C:\\x",
    "CON",
    "x" * 300,
    "a\0b",
    "a\nb",
    "-x",
    "~",
]
ODD_NAMES += [
    "\u202etxt",
    "shard-00000/../../x",
    "%2e%2e",
    " ",
    "é",
    "\ud800",
    ".hidden",
    "shard-٣٣٣٣٣",
    "a*b",
    "[ab]",
    "x.",
]
NAMES = st.one_of(st.sampled_from(ODD_NAMES), st.text(max_size=20))
PASSWORDS = ("https://user:sesame@example.org/x", "s3://key:sesame@bucket/x", "https:/user:sesame@example.org")


def obeys(read, *named, error=ValueError):
    """What a reader gives, or nothing where it refuses as it should: by its own error, which says of what and what to do."""
    try:
        return read()
    except error as refusal:
        message = str(refusal)
        missing = [name for name in named if name not in message]
        assert not missing, f"{missing} not in {message!r}"
        _, parted, remedy = message.rpartition("; ")
        assert parted and len(remedy.split()) >= 2, f"no remedy in {message!r}"
        assert len(message) < MAX_MESSAGE, f"a message of {len(message)} characters"
        return None


def mutated(seed, n_edits=6):
    """Bytes that were `seed` before a few were changed, removed, doubled or cut off."""
    kinds = st.sampled_from(["change", "insert", "remove", "double", "cut"])
    edit = st.tuples(kinds, st.floats(0, 1), st.binary(max_size=12))
    return st.lists(edit, min_size=1, max_size=n_edits).map(lambda edits: _edited(seed, edits))


def _edited(content, edits):
    for kind, share, piece in edits:
        place = int(share * len(content))
        before, after = content[:place], content[place:]
        content = {
            "change": before + piece + after[len(piece) :],
            "insert": before + piece + after,
            "remove": before + after[len(piece) + 1 :],
            "double": before + before[-20:] + after,
            "cut": before,
        }[kind]
    return content
