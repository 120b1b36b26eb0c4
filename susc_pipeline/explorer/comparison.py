"""Two clusterings of the same tokens side by side: how far they agree, and what became of each cluster."""

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float64, Int

from susc_pipeline.clustering import agreement


class Comparison(NamedTuple):
    """The clusters of a run beside those of another.

    `compared` is how many members of each cluster the other run has clustered or left out, `jaccard` the best match over
    the tokens that both runs have, missing where none of the cluster's are, `partner` its number, -1 where no cluster
    overlaps. The adjusted Rand index is over tokens that are in a cluster of either.
    """

    name: str
    meaning: str
    n_tokens: int
    n_clusters: int
    adjusted_rand_index: float | None
    compared: Int[np.ndarray, " clusters"]
    jaccard: Float64[np.ndarray, " clusters"]
    partner: Int[np.ndarray, " clusters"]


def compare(
    members: pl.DataFrame,
    others: pl.DataFrame,
    shared: pl.DataFrame | None,
    *,
    name: str,
    meaning: str,
    n_clusters: int,
) -> Comparison:
    """The members of two clusterings compared over the tokens that both have.

    Args:
        members: cluster and keys of each member of this run.
        others: likewise of the other run.
        shared: keys of the tokens that both runs clustered, where they are not the same.
        name: of the other run.
        meaning: what differs, in a sentence.
        n_clusters: of this run.
    """
    keys = [column for column in members.columns if column != "cluster"]
    either = members.join(others, on=keys, how="full", coalesce=True, suffix="_other")
    if shared is not None:
        either = either.join(shared, on=keys, how="semi")
    a, b = (either[column].fill_null(agreement.UNCLUSTERED).to_numpy() for column in ("cluster", "cluster_other"))
    found = agreement.best_match(a, b, n_clusters=n_clusters)
    index = agreement.adjusted_rand_index(a, b) if len(a) else None
    compared = np.bincount(a[a != agreement.UNCLUSTERED], minlength=n_clusters)
    jaccard = np.where(compared > 0, found.jaccard, np.nan)
    return Comparison(name, meaning, len(a), others["cluster"].n_unique(), index, compared, jaccard, found.partner)
