"""How far two clusterings of the same tokens agree. The clusterings come from search.py."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from sklearn.metrics import adjusted_rand_score

from susc_pipeline import schema

UNCLUSTERED = -1
MATCH = 0.5


def adjusted_rand_index(a: Int[np.ndarray, " tokens"], b: Int[np.ndarray, " tokens"]) -> float:
    """Adjusted Rand index (Hubert and Arabie 1985): 1 for equal clusterings, about 0 for unrelated ones.

    Unclustered tokens count as one more cluster of each.
    """
    return float(adjusted_rand_score(a, b))


def best_match_jaccard(a: Int[np.ndarray, " tokens"], b: Int[np.ndarray, " tokens"]) -> Float[np.ndarray, " clusters"]:
    """For each cluster of `a` the largest Jaccard index with a cluster of `b`, zero where none overlaps."""
    n_a, n_b = int(a.max(initial=UNCLUSTERED)) + 1, int(b.max(initial=UNCLUSTERED)) + 1
    if n_a == 0 or n_b == 0:
        return np.zeros(n_a)
    both = (a != UNCLUSTERED) & (b != UNCLUSTERED)
    shared = np.zeros((n_a, n_b))
    np.add.at(shared, (a[both], b[both]), 1.0)
    sizes_a, sizes_b = np.bincount(a[a >= 0], minlength=n_a), np.bincount(b[b >= 0], minlength=n_b)
    return (shared / (sizes_a[:, None] + sizes_b[None, :] - shared)).max(axis=1)


def table(labels: Mapping[str, Int[np.ndarray, " tokens"]]) -> pl.DataFrame:
    """One row for each pair of clusterings of the same tokens, as schema.AGREEMENT."""
    rows = []
    for (name_a, a), (name_b, b) in combinations(labels.items(), 2):
        matches = [best_match_jaccard(a, b), best_match_jaccard(b, a)]
        shares = [float(np.mean(match >= MATCH)) if len(match) else None for match in matches]
        rows.append([name_a, name_b, *(len(match) for match in matches), adjusted_rand_index(a, b), *shares])
    return pl.DataFrame(rows, schema=schema.AGREEMENT, orient="row")
