"""What the rules may know of a token: itself, its neighbours, its place. No susceptibility, no loss, no cluster.

Every feature is a whole number. Those of VALUES name one of many values (a token, a kind); those of NUMBERS are counts, which a
rule compares with a limit. All are read off the context, so a line or a bracket that began before it is not known of.
"""

import unicodedata
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32

VALUES = ("token", "previous", "following", "line_opener", "document_kind", "letter_case", "word_place")
NUMBERS = (
    "place_in_line",
    "place_in_document",
    "place_in_context",
    "bracket_depth",
    "is_first_in_line",
    "is_repeated_pair",
)
FEATURES = VALUES + NUMBERS
MISSING = -1
LETTER_CASES = ("white space", "in lower case", "capitalized", "in upper case", "in mixed case")
LETTER_CASES += ("of digits", "of punctuation", "of other signs")
WORD_PLACES = (
    "outside words",
    "a whole word",
    "the first part of a word",
    "a middle part of a word",
    "the last part of a word",
)


class TokenFacts(NamedTuple):
    """What is known of each token of the vocabulary by its text alone; an entry a token id."""

    letter_case: Int32[np.ndarray, " vocabulary"]
    begins_with_word: Bool[np.ndarray, " vocabulary"]
    ends_with_word: Bool[np.ndarray, " vocabulary"]
    breaks_line: Bool[np.ndarray, " vocabulary"]
    is_blank: Bool[np.ndarray, " vocabulary"]
    brackets: Int32[np.ndarray, " vocabulary"]
    """Opening ones less closing ones."""


def token_facts(texts: list[str]) -> TokenFacts:
    """The facts of each token text; a byte that is no character, shown as ⟨e2⟩, is neither letter nor bracket."""
    columns = zip(*(_facts(text) for text in texts)) if texts else [[]] * 6
    kinds = (np.int32, bool, bool, bool, bool, np.int32)
    return TokenFacts(*(np.array(column, dtype=kind) for column, kind in zip(columns, kinds)))


def _facts(text: str) -> tuple[int, bool, bool, bool, bool, int]:
    brackets = sum((one in "([{") - (one in ")]}") for one in text)
    case = LETTER_CASES.index(letter_case(text))
    return case, _is_word(text[:1]), _is_word(text[-1:]), "\n" in text, not text.strip(), brackets


def letter_case(text: str) -> str:
    """Which of LETTER_CASES a text has; digits and punctuation beside letters do not count."""
    stripped = text.strip()
    letters = "".join(one for one in stripped if one.isalpha())
    if not stripped:
        return "white space"
    if "⟨" in stripped:
        return "of other signs"
    if not letters:
        return "of digits" if any(one.isdigit() for one in stripped) else "of punctuation"
    if letters.islower():
        return "in lower case"
    if letters.isupper():
        return "in upper case" if len(letters) > 1 else "capitalized"
    if letters[0].isupper() and letters[1:].islower():
        return "capitalized"
    return "in mixed case" if letters.lower() != letters.upper() else "of other signs"


def _is_word(character: str) -> bool:
    return character == "_" or unicodedata.category(character)[0] in "LNM" if character else False


def features(
    token_ids: Int[np.ndarray, "contexts positions"],
    starts: Int[np.ndarray, " contexts"],
    kinds: Int[np.ndarray, " contexts"],
    facts: TokenFacts,
) -> Int32[np.ndarray, "tokens features"]:
    """The features, in order of FEATURES, of every predicted token: position 1 and on of each context, one after another.

    Args:
        token_ids: of contexts.
        starts: tokens of the document before each context.
        kinds: number of the kind of document that each context is of, MISSING where it has none.
        facts: of the vocabulary.
    """
    n_positions = token_ids.shape[1]
    place = np.broadcast_to(np.arange(n_positions), token_ids.shape)
    line = _lines(token_ids, starts, facts)
    columns = {
        "token": token_ids,
        "previous": np.roll(token_ids, 1, axis=1),
        "following": np.where(place < n_positions - 1, np.roll(token_ids, -1, axis=1), MISSING),
        "line_opener": line.opener,
        "document_kind": np.broadcast_to(kinds[:, None], token_ids.shape),
        "letter_case": facts.letter_case[token_ids],
        "word_place": _word_places(token_ids, facts),
        "place_in_line": line.place,
        "place_in_document": starts[:, None] + place,
        "place_in_context": place,
        "bracket_depth": _bracket_depths(token_ids, facts),
        "is_first_in_line": line.is_first,
        "is_repeated_pair": _repeated_pairs(token_ids),
    }
    return np.stack([columns[name][:, 1:].ravel() for name in FEATURES], axis=1).astype(np.int32)


class _Lines(NamedTuple):
    place: np.ndarray
    """Tokens since the last line break, or since the context's start."""
    is_first: np.ndarray
    """Whether only white space is before it on its line."""
    opener: np.ndarray
    """First token of the line that is not white space, up to the token itself; MISSING where the line began earlier."""


def _lines(token_ids: np.ndarray, starts: np.ndarray, facts: TokenFacts) -> _Lines:
    place = np.broadcast_to(np.arange(token_ids.shape[1]), token_ids.shape)
    after_break = np.roll(facts.breaks_line[token_ids], 1, axis=1)
    after_break[:, 0] = starts == 0
    line_start = np.maximum.accumulate(np.where(after_break, place, MISSING), axis=1)
    has_start = line_start >= 0
    # A token that breaks the line ends it, and says nothing of its own.
    says = ~facts.is_blank[token_ids]
    n_said = np.cumsum(says, axis=1) - says
    said_before = n_said - np.take_along_axis(n_said, np.maximum(line_start, 0), axis=1)
    is_first = has_start & (said_before == 0) & says
    first_place = np.maximum.accumulate(np.where(is_first, place, MISSING), axis=1)
    opener = np.take_along_axis(token_ids, np.maximum(first_place, 0), axis=1)
    known = has_start & (first_place >= line_start)
    return _Lines(place - np.maximum(line_start, 0), is_first, np.where(known, opener, MISSING))


def _word_places(token_ids: np.ndarray, facts: TokenFacts) -> np.ndarray:
    begins, ends = facts.begins_with_word[token_ids], facts.ends_with_word[token_ids]
    goes_on = np.zeros(token_ids.shape, bool)  # from the token to the next one
    goes_on[:, :-1] = ends[:, :-1] & begins[:, 1:]
    came_on = np.roll(goes_on, 1, axis=1)
    came_on[:, 0] = False
    place = np.select([came_on & goes_on, came_on, goes_on], [3, 4, 2], 1)
    return np.where(np.isin(facts.letter_case[token_ids], [0, 6, 7]) & ~begins & ~ends, 0, place)


def _bracket_depths(token_ids: np.ndarray, facts: TokenFacts) -> np.ndarray:
    """Brackets opened before the token, since the context's start, and not yet closed; whatever their kind."""
    change = facts.brackets[token_ids]
    total = np.cumsum(change, axis=1) - change
    return total - np.minimum.accumulate(np.minimum(total, 0), axis=1)


def _repeated_pairs(token_ids: np.ndarray) -> np.ndarray:
    """Whether the token and the one before it stand side by side earlier in the context too."""
    pairs = np.roll(token_ids, 1, axis=1).astype(np.int64) << 32 | token_ids
    pairs[:, 0] = MISSING
    order = np.argsort(pairs, axis=1, kind="stable")
    ordered = np.take_along_axis(pairs, order, axis=1)
    again = np.zeros(token_ids.shape, bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    found = np.zeros(token_ids.shape, bool)
    np.put_along_axis(found, order, again, axis=1)
    return found
