"""Which checkpoints are to be measured: equal weights once, and none of another tokenizer or shape."""

from collections.abc import Sequence
from typing import NamedTuple


class Identity(NamedTuple):
    """What makes a checkpoint comparable with another, without its place in training."""

    name: str
    weights: str
    """Digest of all weights."""
    tokenizer: str
    """Digest of the tokenizer's file."""
    shape: str
    """The model's shape in words, such as `4 layers, 4 heads, width 96, vocabulary 2048`."""


class Chosen(NamedTuple):
    """The checkpoints to measure, by number, and a sentence on each that is left out."""

    numbers: list[int]
    sentences: list[str]


def distinct(checkpoints: Sequence[Identity]) -> Chosen:
    """The first checkpoint of each set of weights.

    Raises:
        ValueError: fewer than two distinct checkpoints, or one of another tokenizer or shape than the first.
    """
    first_of: dict[str, str] = {}
    numbers, sentences = [], []
    for number, one in enumerate(checkpoints):
        check_comparable(checkpoints[0], one)
        if one.weights in first_of:
            sentences.append(f"{one.name} has the weights of {first_of[one.weights]}: it is not measured again.")
            continue
        first_of[one.weights] = one.name
        numbers.append(number)
    if len(numbers) < 2:
        raise ValueError(
            f"development needs at least 2 checkpoints of different weights, got {len(numbers)}; name more"
        )
    return Chosen(numbers, sentences)


def check_comparable(first: Identity, other: Identity) -> None:
    """Refuse a checkpoint whose tokens or components are not those of the first.

    Raises:
        ValueError: names both checkpoints and what differs.
    """
    if other.tokenizer != first.tokenizer:
        raise ValueError(
            f"{other.name} has another tokenizer than {first.name}, so they share no tokens; name checkpoints of one run"
        )
    if other.shape != first.shape:
        raise ValueError(
            f"{other.name} has {other.shape}, but {first.name} has {first.shape}, so they share no components; name "
            f"checkpoints of one run"
        )
