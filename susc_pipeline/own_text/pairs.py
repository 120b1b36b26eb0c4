"""Which tokens of two texts are compared."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Pairs(NamedTuple):
    """Tokens of two texts that are compared with each other, in order."""

    by_position: bool
    """Whether the texts have one length, so that each token is compared with the one at its place; else equal tokens are."""
    first: Int[np.ndarray, " pairs"]
    second: Int[np.ndarray, " pairs"]


def pairs(first: Int[np.ndarray, " first_tokens"], second: Int[np.ndarray, " second_tokens"]) -> Pairs:
    """Token with token where the texts have one length, else the tokens of a longest common subsequence, as of `diff`."""
    if len(first) == len(second):
        return Pairs(True, np.arange(len(first)), np.arange(len(second)))
    return Pairs(False, *common(first, second))


def common(
    first: Int[np.ndarray, " first_tokens"], second: Int[np.ndarray, " second_tokens"]
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Places of a longest common subsequence (Wagner and Fischer 1974), matched from the end; difflib takes 22 s at worst here.

    `longest[i, j]` is its length in the first i and j tokens. A row is the maximum, so far along the row, of the row above and
    of what a match adds to it.
    """
    longest = np.zeros((len(first) + 1, len(second) + 1), np.int32)
    for i, token in enumerate(first, start=1):
        matched = np.maximum(longest[i - 1, 1:], longest[i - 1, :-1] + (second == token))
        longest[i, 1:] = np.maximum.accumulate(matched)
    places, i, j = [], len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            i, j = i - 1, j - 1
            places.append((i, j))
        elif longest[i - 1, j] >= longest[i, j - 1]:
            i -= 1
        else:
            j -= 1
    found = np.array(places[::-1], np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]
