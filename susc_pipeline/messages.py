"""What a message may show of outside data: a little of it, nothing that a terminal obeys, and no credentials.

A user or password in a URL, `scheme://user:password@host`, would go on into logs, metadata and the explorer. It belongs
into the environment. `require` words the refusal of a setting.
"""

import re
import reprlib

MAX_SHOWN = 200
# One slash too: that is what a path library leaves of two.
IN_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/{1,2})[^/?#\s]*@")


def plain(text: str) -> str:
    """The text with nothing in it that a terminal would obey, but for ends of lines: it may quote names of outside data."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def has_credentials(text: str) -> bool:
    """Whether the text holds a URL with a user or a password."""
    return IN_URL.search(text) is not None


def without_credentials(text: str) -> str:
    """The text with every user and password of a URL replaced by three dots."""
    return IN_URL.sub(r"\1…@", text)


def shown(value: object) -> str:
    """A value, shortened however long or deep it is, and without credentials."""
    form = reprlib.Repr()
    form.maxstring = form.maxother = MAX_SHOWN
    try:
        return without_credentials(form.repr(value))
    except ValueError:  # Python writes no integer of more than 4300 digits
        return f"a {type(value).__name__} of many digits"


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise a ValueError that names the setting, its value and the rule, unless the condition holds."""
    if not condition:
        raise ValueError(f"{name} must be {rule}, got {shown(value)}; change it in the experiment's TOML file")
