"""How well a rule tells a cluster's members from other tokens of documents that it was not learned on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Bool, Float

from susc_pipeline.labels.rules import Rows

LEVEL = 0.95


class Score(NamedTuple):
    """Shares and F1 of a rule; F1 of the one that knows the token alone; `gain` is the difference, with its interval.

    `n_members_scored` and `n_documents_scored` count the cluster's held-out members and the document groups that they are in.
    """

    precision: float
    recall: float
    f1: float
    token_f1: float
    gain: float
    gain_low: float
    gain_high: float
    n_members_scored: int
    n_documents_scored: int


def best_score(
    rows: Rows, cluster: int, by_rule: Bool[np.ndarray, " rows"], by_tokens: Sequence[Bool[np.ndarray, " rows"]]
) -> tuple[Score, int]:
    """The score beside that one of several token rules which does best on these rows, and its number.

    It is chosen with the answers at hand, in favour of the token, so the gain is never flattered.
    """
    found = [score(rows, cluster, by_rule, by_token) for by_token in by_tokens]
    best = max(range(len(found)), key=lambda number: found[number].token_f1)
    return found[best], best


class _Counts(NamedTuple):
    hits: Float[np.ndarray, " documents"]
    taken: Float[np.ndarray, " documents"]
    members: Float[np.ndarray, " documents"]


def score(rows: Rows, cluster: int, by_rule: Bool[np.ndarray, " rows"], by_token: Bool[np.ndarray, " rows"]) -> Score:
    """The score of the rows that two rules take, on the members of a cluster.

    F1 = 2 hits / (taken + members), each summed by weight. The interval of the gain is Student's t times the jackknife
    error over documents that hold a member or a row taken (Tukey 1958); where F1 has no row to count it is 0.
    """
    is_member = rows.cluster == cluster
    concerned = np.flatnonzero(is_member | by_rule | by_token)
    _, document = np.unique(rows.document[concerned], return_inverse=True)
    weight, inside = rows.weight[concerned], is_member[concerned]
    total = lambda chosen: np.bincount(document, weights=weight * chosen)  # noqa: E731
    of_rule, of_token = (
        _Counts(total(taken & inside), total(taken), total(inside))
        for taken in (by_rule[concerned], by_token[concerned])
    )
    gain = _f1(of_rule) - _f1(of_token)
    half = _half_width(_f1_without_each(of_rule) - _f1_without_each(of_token))
    hits, taken, members = (float(count.sum()) for count in of_rule)
    return Score(
        hits / taken if taken else 0.0,
        hits / members if members else 0.0,
        _f1(of_rule),
        _f1(of_token),
        gain,
        gain - half,
        gain + half,
        int(is_member.sum()),
        len(np.unique(rows.document[is_member])),
    )


def _f1(counts: _Counts) -> float:
    hits, taken, members = (float(count.sum()) for count in counts)
    return 2 * hits / (taken + members)


def _f1_without_each(counts: _Counts) -> Float[np.ndarray, " documents"]:
    """F1 of all documents but each one in turn."""
    hits, taken, members = (count.sum() - count for count in counts)
    return 2 * hits / np.maximum(taken + members, np.finfo(float).tiny)


def _half_width(without: Float[np.ndarray, " documents"]) -> float:
    n = len(without)
    if n < 2:
        return float("nan")
    error = np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2))
    return float(scipy.stats.t.ppf((1 + LEVEL) / 2, n - 1) * error)
