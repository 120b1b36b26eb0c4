"""Clusters followed through checkpoints by their members: born, grown, dead, and how many would match by chance.

A cluster continues as one of the next checkpoint where each is the other's best match and their Jaccard index is at least a half.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from susc_pipeline.clustering import agreement, reproducibility
from susc_pipeline.schema import development_tables

N_PERMUTATIONS = 200
FOUND_LATER = ("step", "half_jaccard", "tokens")  # of DEVELOPMENT_CLUSTERS: what labels alone do not tell
COLUMNS = {
    "place": pl.Int64,
    **{name: kind for name, kind in development_tables.DEVELOPMENT_CLUSTERS.items() if name not in FOUND_LATER},
}
Labels = Int[np.ndarray, " tokens"]


class Continued(NamedTuple):
    """For each cluster of a checkpoint its match in the next one: -1 where there is none."""

    partner: Int[np.ndarray, " clusters"]
    jaccard: Float[np.ndarray, " clusters"]


def n_clusters(labels: Labels) -> int:
    """Number of clusters that the labels name."""
    return int(labels.max(initial=-1)) + 1


def continued(labels: Labels, following: Labels) -> Continued:
    """Mutual best matches of Jaccard index one half or more; at most one for each cluster."""
    forward = agreement.best_match(labels, following, n_clusters=n_clusters(labels))
    backward = agreement.best_match(following, labels, n_clusters=n_clusters(following))
    partner = np.full(len(forward.partner), -1)
    for cluster, other in enumerate(forward.partner):
        if forward.jaccard[cluster] >= agreement.MATCH and backward.partner[other] == cluster:
            partner[cluster] = other
    return Continued(partner, np.where(partner >= 0, forward.jaccard, 0.0))


def by_chance(
    labels: Labels,
    following: Labels,
    token_ids: Int[np.ndarray, " tokens"],
    rng: np.random.Generator,
    *,
    n_permutations: int = N_PERMUTATIONS,
) -> Int[np.ndarray, " permutations"]:
    """Matches after the next checkpoint's labels are permuted among the occurrences of each token: clusters keep their tokens."""
    shuffled = (reproducibility.within_tokens(following, token_ids, rng) for _ in range(n_permutations))
    return np.array([int((continued(labels, other).partner >= 0).sum()) for other in shuffled])


def table(labels: Sequence[Labels]) -> pl.DataFrame:
    """A row for each cluster of each checkpoint, numbered as `place`: lineage, match before, growth, birth and death.

    Clusters of one lineage continue one another. `growth` is the size over that of the match before. No cluster of the first
    checkpoint is born and none of the last is dead: nobody measured before or behind.
    """
    rows: list[dict[str, object]] = []
    n_lineages, before = 0, Continued(np.zeros(0, np.int64), np.zeros(0))
    lineage_before: list[int] = []
    for place, own in enumerate(labels):
        sizes = np.bincount(own[own >= 0], minlength=n_clusters(own))
        following = continued(own, labels[place + 1]) if place + 1 < len(labels) else None
        lineage = []
        for cluster in range(n_clusters(own)):
            match = np.flatnonzero(before.partner == cluster)
            previous = int(match[0]) if len(match) else None
            lineage.append(n_lineages if previous is None else lineage_before[previous])
            n_lineages += previous is None
            earlier = None if previous is None else int((labels[place - 1] == previous).sum())
            rows.append(
                {
                    "place": place,
                    "cluster": cluster,
                    "lineage": lineage[-1],
                    "size": int(sizes[cluster]),
                    "previous_cluster": previous,
                    "jaccard": None if previous is None else float(before.jaccard[previous]),
                    "growth": None if earlier is None else float(sizes[cluster] / earlier),
                    "is_born": previous is None if place else None,
                    "is_dead": bool(following.partner[cluster] < 0) if following else None,
                }
            )
        before, lineage_before = following or before, lineage
    return pl.DataFrame(rows, schema=COLUMNS)
