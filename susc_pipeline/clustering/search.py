"""The search for clusters: seed, PageRank, sweep, cluster, until every vertex is visited. Graphs come from knn.py."""

import os
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from susc_pipeline.clustering import conductance, pagerank

UNCLUSTERED = -1
SEEDS_AT_ONCE = 64


@dataclass(frozen=True)
class SearchSettings:
    """What counts as a cluster, and how far each seed looks."""

    teleport_probability: float = 0.001
    """Probability, per step of the lazy walk, to return to the seed."""
    tolerance: float = 1e-7
    """PageRank left undistributed at a vertex, at most, per unit of weighted degree (mean degree: knn.n_neighbors)."""
    min_size: int = 20
    """Tokens of a cluster, at least."""
    max_size: int = 10_000
    """Tokens of a cluster, at most."""
    max_conductance: float = 0.4
    """Share of a cluster's edge weight that leaves it, at most."""
    main_body_fraction: float = 0.99
    """Share of the graph's volume from which on a set is the main body of the cloud, not a cluster."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("teleport_probability", "max_conductance", "main_body_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must lie between 0 and 1, got {getattr(self, name)}; change it in [clustering]"
                )
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {self.tolerance}; 1e-7 is published")
        if not 1 <= self.min_size <= self.max_size:
            raise ValueError(
                f"min_size must be between 1 and max_size ({self.max_size}), got {self.min_size}; change either"
            )


class Clustering(NamedTuple):
    """Clusters in the order they were found; a token belongs to at most one."""

    labels: Int[np.ndarray, " vertices"]
    """Cluster of each vertex, -1 where unclustered."""
    members: list[np.ndarray]
    """Vertices of each cluster, by falling PageRank over degree."""
    size: Int[np.ndarray, " clusters"]
    """Number of members."""
    volume: Float[np.ndarray, " clusters"]
    """Sum of the members' weighted degrees."""
    conductance: Float[np.ndarray, " clusters"]
    """Weight leaving over volume."""
    density: Float[np.ndarray, " clusters"]
    """Mean edge weight over all pairs of members, absent edges counted as zero."""
    seed: Int[np.ndarray, " clusters"]
    """Vertex that the cluster was found from."""
    n_wasted: int
    """Seeds that a thread looked from in vain, for another thread's cluster held them already."""


def find_clusters(
    graph: sparse.csr_array,
    settings: SearchSettings,
    rng: np.random.Generator,
    *,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Clustering:
    """Clusters found from seeds in a random order until every vertex is visited.

    From an unvisited seed: personalised PageRank, vertices ordered by falling PageRank over degree, the prefix of least
    conductance, less the vertices that an earlier cluster took: a vertex belongs to one cluster at most. What is left is
    a cluster if it keeps at least half of the prefix, has `min_size` vertices, and its own conductance is at most
    `max_conductance`; prefixes over `max_size` vertices or over `main_body_fraction` of the graph's volume do not
    compete. Members are then visited, so later seeds start elsewhere; of a seed without a cluster, the seed alone is.

    Threads look from the next seeds of the permutation at once, and what they find is judged in its order; a seed that an
    earlier one has visited by then is dropped. So the outcome is that of the serial loop, whatever the number of threads
    (all that the process may use, unless given), and what is wasted are the dropped looks.
    """
    n_vertices = graph.shape[0]
    n_threads = n_threads or _n_usable_cores()
    degrees = pagerank.weighted_degrees(graph)
    spaces: queue.SimpleQueue = queue.SimpleQueue()
    for _ in range(n_threads):
        spaces.put((pagerank.push_workspace(degrees), conductance.sweep_workspace(degrees)))

    def look(seed: int) -> np.ndarray:
        space = spaces.get()
        try:
            return _cluster_from(graph, seed, settings, degrees, *space)
        finally:
            spaces.put(space)

    labels = np.full(n_vertices, UNCLUSTERED, np.int32)
    visited = np.zeros(n_vertices, bool)
    members: list[np.ndarray] = []
    seeds: list[int] = []
    n_wasted = 0
    order = rng.permutation(n_vertices)
    with ThreadPoolExecutor(n_threads) as pool:
        for start in range(0, n_vertices, SEEDS_AT_ONCE):
            if progress is not None:
                progress(start, n_vertices)
            batch = [int(seed) for seed in order[start : start + SEEDS_AT_ONCE] if not visited[seed]]
            for seed, found in zip(batch, pool.map(look, batch), strict=True):
                if visited[seed]:
                    n_wasted += 1
                    continue
                visited[seed] = True
                fresh = found[labels[found] == UNCLUSTERED]
                if _is_cluster(graph, fresh, found, settings):
                    labels[fresh] = len(members)
                    visited[fresh] = True
                    members.append(fresh)
                    seeds.append(seed)
    return _describe(graph, degrees, labels, members, seeds, n_wasted)


def _n_usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: a container or taskset may leave fewer than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cluster_from(graph, seed, settings, degrees, push_space, sweep_space) -> np.ndarray:
    """The prefix of least conductance around a seed, or nothing where it is no cluster."""
    vector = pagerank.personalized_pagerank(
        graph,
        seed,
        teleport_probability=settings.teleport_probability,
        tolerance=settings.tolerance,
        workspace=push_space,
    )
    order = np.argsort(-vector.values / np.maximum(degrees[vector.vertices], np.finfo(float).tiny), kind="stable")
    ordering = vector.vertices[order]
    cut = conductance.sweep_cut(
        graph,
        ordering,
        min_size=settings.min_size,
        max_size=settings.max_size,
        max_volume=settings.main_body_fraction * push_space.degrees.sum(),
        workspace=sweep_space,
    )
    is_cluster = cut.size > 0 and cut.conductance <= settings.max_conductance
    return ordering[: cut.size] if is_cluster else ordering[:0]


def _is_cluster(graph, fresh, found, settings) -> bool:
    if len(fresh) < settings.min_size or 2 * len(fresh) < len(found):
        return False
    return len(fresh) == len(found) or conductance.conductance(graph, fresh) <= settings.max_conductance


def _describe(graph, degrees, labels, members, seeds, n_wasted) -> Clustering:
    sizes = np.array([len(m) for m in members], dtype=np.int64)
    volume = np.array([degrees[m].sum() for m in members], dtype=np.float64)
    leaving = np.array([conductance.conductance(graph, m) for m in members], dtype=np.float64)
    pairs = np.maximum(sizes * (sizes - 1), 1)
    density = (1 - leaving) * volume / pairs
    return Clustering(labels, members, sizes, volume, leaving, density, np.array(seeds, dtype=np.int64), n_wasted)
