"""Which corpus tokens and clusters a measured token is near, in the whitened space in which the clusters were found."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

NONE = -1
N_TOKENS = 10
N_CLUSTERS = 5


class Nearest(NamedTuple):
    """What is near each token, nearest first, by Euclidean distance in whitened coordinates."""

    tokens: Int[np.ndarray, "tokens near"]
    """Numbers of corpus tokens, as the corpus was given them."""
    token_distances: Float[np.ndarray, "tokens near"]
    clusters: Int[np.ndarray, "tokens near_clusters"]
    """Clusters whose mean vector is near."""
    cluster_distances: Float[np.ndarray, "tokens near_clusters"]
    cluster: Int[np.ndarray, " tokens"]
    """The cluster that at least half of the near corpus tokens are in; -1 where there is none."""


class Trial(NamedTuple):
    """What `Nearest.cluster` says of corpus tokens whose cluster is known, each without itself."""

    n_clustered: int
    n_right: int
    """Of them the tokens that get their own cluster."""
    n_unclustered: int
    n_joined: int
    """Of them the tokens that get a cluster all the same."""


@dataclass(frozen=True, eq=False)
class Neighborhood:
    """The corpus tokens and the mean vectors of their clusters, each with an index for search."""

    points: Float[np.ndarray, "corpus directions"]
    numbers: Int[np.ndarray, " corpus"]
    """Number of each point's token in the whole corpus."""
    labels: Int[np.ndarray, " corpus"]
    """Cluster of each point; -1 in none."""
    clusters: Int[np.ndarray, " present"]
    """Clusters with a member among the points."""
    of_points: Any
    of_centres: Any

    def nearest(self, vectors: Float[np.ndarray, "tokens directions"]) -> Nearest:
        """The nearest corpus tokens and clusters of each vector."""
        queries = np.ascontiguousarray(vectors, np.float32)
        token_distances, rows = _searched(self.of_points, queries, min(N_TOKENS, len(self.points)))
        cluster_distances, present = _searched(self.of_centres, queries, min(N_CLUSTERS, len(self.clusters)))
        return Nearest(
            self.numbers[rows],
            token_distances,
            self.clusters[present],
            cluster_distances,
            majority(self.labels[rows]),
        )

    def trial(self, n_tokens: int, rng: np.random.Generator) -> Trial:
        """The majority held against the known cluster of up to so many clustered and so many other corpus tokens."""
        counts = []
        for chosen in (np.flatnonzero(self.labels != NONE), np.flatnonzero(self.labels == NONE)):
            rows = rng.choice(chosen, min(n_tokens, len(chosen)), replace=False)
            _, found = _searched(self.of_points, self.points[rows], min(N_TOKENS + 1, len(self.points)))
            is_self = found == rows[:, None]
            is_self[~is_self.any(axis=1), -1] = True  # a token with many equals: the last found makes room
            others = found[~is_self].reshape(len(rows), found.shape[1] - 1)
            given = majority(self.labels[others])
            counts.append(
                (len(rows), int(np.sum((given == self.labels[rows]) & (given != NONE))), int(np.sum(given != NONE)))
            )
        (n_clustered, n_right, _), (n_unclustered, _, n_joined) = counts
        return Trial(n_clustered, n_right, n_unclustered, n_joined)


def neighborhood(
    points: Float[np.ndarray, "corpus directions"],
    numbers: Int[np.ndarray, " corpus"],
    labels: Int[np.ndarray, " corpus"],
) -> Neighborhood:
    """The neighbourhood of these corpus tokens, compared exactly.

    Args:
        points: whitened vectors.
        numbers: what names each token.
        labels: cluster of each, -1 in none. A cluster's mean is over its members among the points.
    """
    points = np.ascontiguousarray(points, np.float32)
    clusters, members = np.unique(labels[labels != NONE], return_inverse=True)
    sums = np.zeros((len(clusters), points.shape[1]))
    np.add.at(sums, members, points[labels != NONE])
    centres = sums / np.bincount(members, minlength=len(clusters))[:, None]
    return Neighborhood(points, numbers, labels, clusters, _index(points), _index(centres.astype(np.float32)))


def majority(labels: Int[np.ndarray, "tokens near"]) -> Int[np.ndarray, " tokens"]:
    """The cluster of at least half of each row, the lower number of two; -1 where no cluster has so many."""
    if labels.shape[1] == 0:
        return np.full(len(labels), NONE, np.int64)
    ordered = np.sort(labels, axis=1)
    needed = -(-labels.shape[1] // 2)
    # In order of number, a label that fills half of a row stands at both ends of a stretch of that length.
    starts = ordered[:, : labels.shape[1] - needed + 1]
    fills = (starts == ordered[:, needed - 1 :]) & (starts != NONE)
    return np.where(fills.any(axis=1), starts[np.arange(len(labels)), fills.argmax(axis=1)], NONE).astype(np.int64)


def _index(points: Float[np.ndarray, "points directions"]) -> Any:
    import faiss

    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points)
    return index


def _searched(
    index: Any, queries: Float[np.ndarray, "tokens directions"], n_near: int
) -> tuple[Float[np.ndarray, "tokens near"], Int[np.ndarray, "tokens near"]]:
    """Distances and rows of what is near; no columns where nothing is indexed."""
    if n_near == 0:
        return np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    squared, rows = index.search(np.ascontiguousarray(queries, np.float32), n_near)
    return np.sqrt(np.maximum(squared, 0)), rows
