"""How far two clusterings of the same tokens agree. The clusterings come from search.py."""

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from susc_pipeline import schema

UNCLUSTERED = -1
MATCH = 0.5


def adjusted_rand_index(a: Int[np.ndarray, " tokens"], b: Int[np.ndarray, " tokens"]) -> float:
    """Adjusted Rand index (Hubert and Arabie 1985): 1 for equal clusterings, about 0 for unrelated ones.

    Unclustered tokens count as one more cluster of each.
    """
    from sklearn import metrics  # here: it is slow to load

    return float(metrics.adjusted_rand_score(a, b))


def adjusted_mutual_information(a: Int[np.ndarray, " tokens"], b: Int[np.ndarray, " tokens"]) -> float:
    """Adjusted mutual information (Vinh, Epps and Bailey 2010): 1 for equal clusterings, 0 on average for unrelated ones.

    Unclustered tokens count as one more cluster of each.
    """
    from sklearn import metrics  # here: it is slow to load

    return float(metrics.adjusted_mutual_info_score(a, b))


class Matches(NamedTuple):
    """For each cluster the largest Jaccard index with a cluster of the other, and its number; 0 and -1 where none."""

    jaccard: Float[np.ndarray, " clusters"]
    partner: Int[np.ndarray, " clusters"]


def best_match_jaccard(a: Int[np.ndarray, " tokens"], b: Int[np.ndarray, " tokens"]) -> Float[np.ndarray, " clusters"]:
    """For each cluster of `a` the largest Jaccard index with a cluster of `b`, zero where none overlaps."""
    return best_match(a, b, n_clusters=int(a.max(initial=UNCLUSTERED)) + 1).jaccard


def best_match(a: Int[np.ndarray, " tokens"], b: Int[np.ndarray, " tokens"], *, n_clusters: int) -> Matches:
    """For each of the clusters 0 ... n_clusters - 1 of `a` the cluster of `b` that shares the largest part of the union.

    Only pairs that overlap are held: thousands of clusters on both sides have few.
    """
    result = Matches(np.zeros(n_clusters), np.full(n_clusters, UNCLUSTERED))
    both = (a != UNCLUSTERED) & (b != UNCLUSTERED)
    if not both.any():
        return result
    pairs, shared = np.unique(np.stack([a[both], b[both]]), axis=1, return_counts=True)
    sizes_a, sizes_b = (np.bincount(labels[labels != UNCLUSTERED]) for labels in (a, b))
    jaccard = shared / (sizes_a[pairs[0]] + sizes_b[pairs[1]] - shared)
    order = np.argsort(jaccard, kind="stable")  # of several pairs with one cluster the last, and best, is kept
    result.jaccard[pairs[0][order]] = jaccard[order]
    result.partner[pairs[0][order]] = pairs[1][order]
    return result


def table(labels: Mapping[str, Int[np.ndarray, " tokens"]]) -> pl.DataFrame:
    """One row for each pair of clusterings of the same tokens, as schema.AGREEMENT."""
    rows = []
    for (name_a, a), (name_b, b) in combinations(labels.items(), 2):
        matches = [best_match_jaccard(a, b), best_match_jaccard(b, a)]
        shares = [float(np.mean(match >= MATCH)) if len(match) else None for match in matches]
        rows.append([name_a, name_b, *(len(match) for match in matches), adjusted_rand_index(a, b), *shares])
    return pl.DataFrame(rows, schema=schema.AGREEMENT, orient="row")
