"""Which clusters come again from data that shares nothing with the first, and how often chance alone would match them.

Two clusters match where their Jaccard index, |A and B| / |A or B|, is one half or more (agreement.MATCH). The reproducibility
of a cluster is its largest Jaccard index with a cluster found by either half of the chains alone, of both halves the lesser:
0 not found, 1 found again token by token. Halves share no chain, no context and no draw.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from susc_pipeline import schema
from susc_pipeline.clustering import agreement


def reproducibility(
    labels: Int[np.ndarray, " tokens"], *halves: Int[np.ndarray, " tokens"], n_clusters: int
) -> Float[np.ndarray, " clusters"]:
    """For each of the clusters 0 ... n_clusters - 1 the lesser, over halves, of its best Jaccard index with theirs."""
    return np.min([agreement.best_match(labels, half, n_clusters=n_clusters).jaccard for half in halves], axis=0)


def within_tokens(
    labels: Int[np.ndarray, " tokens"], token_ids: Int[np.ndarray, " tokens"], rng: np.random.Generator
) -> Int[np.ndarray, " tokens"]:
    """The labels permuted among the occurrences of each token: clusters keep their size and their tokens, no more."""
    here, source = np.argsort(token_ids, kind="stable"), np.lexsort([rng.random(len(labels)), token_ids])
    permuted = np.empty_like(labels)
    permuted[here] = labels[source]
    return permuted


def table(
    labels: Mapping[str, Int[np.ndarray, " tokens"]], token_ids: Int[np.ndarray, " tokens"], rng: np.random.Generator
) -> pl.DataFrame:
    """One row for each pair of clusterings of the same tokens, and for its chance level, as schema.REPRODUCIBILITY.

    For the chance level the second's labels are permuted within token identity. Adjusted mutual information (Vinh, Epps and
    Bailey 2010) is 1 for equal clusterings and 0 on average for unrelated ones; unclustered tokens are one more cluster.
    """
    rows = []
    for (first, a), (second, b) in combinations(labels.items(), 2):
        for is_chance, other in ((False, b), (True, within_tokens(b, token_ids, rng))):
            matches = [agreement.best_match_jaccard(*pair) for pair in ((a, other), (other, a))]
            shares = [float(np.mean(match >= agreement.MATCH)) if len(match) else None for match in matches]
            rows.append([first, second, is_chance, *map(len, matches), *shares])
            rows[-1].append(agreement.adjusted_mutual_information(a, other))
    return pl.DataFrame(rows, schema=schema.REPRODUCIBILITY, orient="row")
