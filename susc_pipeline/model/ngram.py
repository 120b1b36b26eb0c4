"""Interpolated Kneser-Ney trigram model: the baseline that the embedded language model has to beat.

Kneser and Ney (1995), in the interpolated form of Chen and Goodman (1999), one discount per order.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class _Order(NamedTuple):
    """Counts of one n-gram order: keys sorted, and the totals of each history."""

    keys: Int[np.ndarray, " ngrams"]
    counts: Float[np.ndarray, " ngrams"]
    histories: Int[np.ndarray, " histories"]
    history_totals: Float[np.ndarray, " histories"]
    history_distinct: Float[np.ndarray, " histories"]
    discount: float


class TrigramModel(NamedTuple):
    """A fitted trigram model over token ids below `vocabulary_size`."""

    vocabulary_size: int
    unigram: Float[np.ndarray, " vocabulary"]
    bigram: _Order
    trigram: _Order

    def losses(self, token_ids: Int[np.ndarray, " tokens"]) -> Float[np.ndarray, " predicted"]:
        """Minus log probability of each token from the third on, given the two before it, in nats."""
        first, second, third = (np.asarray(token_ids, dtype=np.int64)[k : len(token_ids) - 2 + k] for k in range(3))
        lower = _interpolate(self.bigram, second, third, self.unigram[third], self.vocabulary_size)
        history = first * self.vocabulary_size + second
        return -np.log(_interpolate(self.trigram, history, third, lower, self.vocabulary_size))


def fit(token_ids: Int[np.ndarray, " tokens"], vocabulary_size: int) -> TrigramModel:
    """The trigram model of a token stream; lower orders count distinct continuations, as Kneser and Ney."""
    size = vocabulary_size
    first, second, third = (np.asarray(token_ids, dtype=np.int64)[k : len(token_ids) - 2 + k] for k in range(3))
    trigram = _order((first * size + second) * size + third, size)
    bigram_types = trigram.keys % (size * size)
    bigram = _order(bigram_types, size)
    unigram_counts = np.bincount(bigram.keys % size, minlength=size).astype(np.float64)
    # Add-one smoothing of the last order leaves no token impossible.
    unigram = (unigram_counts + 1.0) / (unigram_counts.sum() + size)
    return TrigramModel(size, unigram, bigram, trigram)


def _order(ngrams: Int[np.ndarray, " occurrences"], vocabulary_size: int) -> _Order:
    keys, counts = np.unique(ngrams, return_counts=True)
    histories, inverse = np.unique(keys // vocabulary_size, return_inverse=True)
    totals = np.bincount(inverse, weights=counts).astype(np.float64)
    distinct = np.bincount(inverse).astype(np.float64)
    once, twice = (counts == 1).sum(), (counts == 2).sum()
    return _Order(keys, counts.astype(np.float64), histories, totals, distinct, float(once / (once + 2.0 * twice)))


def _interpolate(
    order: _Order,
    history: Int[np.ndarray, " predicted"],
    token: Int[np.ndarray, " predicted"],
    lower: Float[np.ndarray, " predicted"],
    vocabulary_size: int,
) -> Float[np.ndarray, " predicted"]:
    count = _lookup(order.keys, order.counts, history * vocabulary_size + token)
    total = _lookup(order.histories, order.history_totals, history)
    distinct = _lookup(order.histories, order.history_distinct, history)
    seen = np.maximum(total, 1.0)
    weight = np.where(total > 0, order.discount * distinct / seen, 1.0)
    return np.maximum(count - order.discount, 0.0) / seen + weight * lower


def _lookup(
    keys: Int[np.ndarray, " keys"], values: Float[np.ndarray, " keys"], wanted: Int[np.ndarray, " wanted"]
) -> Float[np.ndarray, " wanted"]:
    position = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[position] == wanted, values[position], 0.0)
