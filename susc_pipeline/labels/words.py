"""Rules in words. Text of the corpus stands between backquotes, with everything that cannot be seen made visible."""

import unicodedata

import numpy as np

from susc_pipeline.labels.features import FEATURES, LETTER_CASES, MISSING, VALUES, WORD_PLACES
from susc_pipeline.labels.rules import ANY, TOKEN, Condition, Rule

SHOWN = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍", "`": "ˋ"}
N_VALUES_NAMED = 4
NOTHING = "nothing that members of several documents share"
MAX_CHARACTERS = 24
PHRASES = {
    "token": ("{}", "not {}"),
    "previous": ("after {}", "not after {}"),
    "following": ("before {}", "not before {}"),
    "line_opener": ("in a line that begins with {}", "in a line that does not begin with {}"),
    "document_kind": ("in documents of {}", "outside documents of {}"),
    "letter_case": ("{}", "not {}"),
    "word_place": ("{}", "not {}"),
}
UNKNOWN = {
    "previous": "nothing",
    "following": "the context's end",
    "line_opener": "text before the context",
    "document_kind": "no kind",
}
UNITS = {"place_in_line": "the line", "place_in_document": "the document", "place_in_context": "the context"}
FLAGS = {
    "is_first_in_line": ("first in its line", "not first in its line"),
    "is_repeated_pair": (
        "where the same two tokens came earlier in the context",
        "where the same two tokens did not come earlier in the context",
    ),
}


class Words:
    """Names of the values that rules speak of."""

    def __init__(self, texts: list[str], kinds: list[str], frequency: np.ndarray) -> None:
        """Take the text of each token, the kinds of documents, and how often each token is met."""
        self._texts, self._kinds, self._frequency = texts, kinds, frequency

    def rule(self, rule: Rule, *, without_token: bool = False) -> str:
        """The conditions one after another, those on the token first."""
        phrases = [
            self._condition(one) for one in rule if not (without_token and one.feature == TOKEN and one.holds_inside)
        ]
        return ", ".join(phrases)

    def token(self, token: int) -> str:
        """A token between backquotes."""
        return quoted(self._texts[token])

    def _condition(self, condition: Condition) -> str:
        name = FEATURES[condition.feature]
        if condition.feature < len(VALUES):
            return PHRASES[name][not condition.holds_inside].format(self._values(name, condition.values))
        return _range(name, condition.low, condition.high)

    def _values(self, name: str, values: np.ndarray) -> str:
        if not len(values):
            return NOTHING
        if name not in ("letter_case", "word_place", "document_kind"):
            values = values[np.argsort(-np.where(values == MISSING, 0, self._frequency[values]), kind="stable")]
        named = [self._value(name, int(value)) for value in values]
        if len(named) > N_VALUES_NAMED + 1:
            return f"{', '.join(named[:N_VALUES_NAMED])} or {len(named) - N_VALUES_NAMED} others"
        return " or ".join([", ".join(named[:-1]), named[-1]]) if len(named) > 1 else named[0]

    def _value(self, name: str, value: int) -> str:
        if value == MISSING:
            return UNKNOWN[name]
        if name == "letter_case":
            return LETTER_CASES[value]
        if name == "word_place":
            return WORD_PLACES[value]
        return quoted(self._kinds[value]) if name == "document_kind" else self.token(value)


def quoted(text: str) -> str:
    """A text between backquotes on one line: spaces, line breaks and what is invisible as visible signs, long ones cut."""
    shown = "".join(
        SHOWN.get(one) or (f"⟨{ord(one):x}⟩" if unicodedata.category(one)[0] in "CZ" else one) for one in text
    )
    return f"`{shown if len(shown) <= MAX_CHARACTERS else shown[: MAX_CHARACTERS - 1] + '…'}`"


def _range(name: str, low: int, high: int) -> str:
    if name in FLAGS:
        return FLAGS[name][low < 1]
    if name == "bracket_depth":
        return _depth(low, high)
    unit = UNITS[name]
    if name == "place_in_line" and high == 0:
        return "right after a line break"
    if low == high:
        return f"at token {low + 1} of {unit}"
    if high == ANY[1]:
        return f"from token {low + 1} of {unit} on"
    return f"among the first {high + 1} tokens of {unit}" if low < 1 else f"at tokens {low + 1} to {high + 1} of {unit}"


def _depth(low: int, high: int) -> str:
    if high < 1:
        return "outside brackets"
    if high == ANY[1]:
        return "inside brackets" if low <= 1 else f"at least {low} brackets deep"
    return f"at most {high} brackets deep" if low < 1 else f"{low} to {high} brackets deep"
