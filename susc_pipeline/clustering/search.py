"""The search for clusters: look from seed after seed until every vertex is visited. A look is in looks.py, graphs in knn.py."""

import collections
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from susc_pipeline.clustering import conductance
from susc_pipeline.clustering.looks import Found, LookPool, SearchSettings

UNCLUSTERED = -1
TASKS_PER_THREAD = 2
N_LEVELS = 3


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
    n_looks: int
    """Seeds looked from."""
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

    A look: from an unvisited seed, personalised PageRank, vertices ordered by falling PageRank over degree, and the
    prefix of least conductance. Levels: a hundredth of the seeds look with `tolerance`, a tenth with ten times that, the
    rest with a hundred times (`tolerance_levels` says why). Polish: vertices that follow the prefix join it, and members
    leave it, as long as that lowers conductance. Core: what is found is looked at again from its member with most edge
    weight to other members, as finely as its volume asks for and by a walk that returns to the seed a third as often, as
    long as conductance falls; so a cluster is seen from its middle, whatever seed it was met from, and a prefix may leak a
    quarter more than `max_conductance` to be looked at again. Main body: a prefix of more than `max_size` vertices or
    `main_body_fraction` of the volume is none; nor is one within these limits, where the ordering goes on beyond them,
    unless conductance rises by a quarter between it and the limit: else it is a piece of what goes on. A set is a cluster
    if it has `min_size` vertices and at most `max_conductance`, and a look from one at least of three of its members finds
    it again (a Jaccard index of a half): pieces of the main body that pass the other rules seldom pass this one. Overlap:
    the first cluster, in order of seeds, keeps a vertex; what is left of a later one must keep at least half of it, and
    min_size and max_conductance hold for what is left. Members are then visited, so later seeds start elsewhere; of a seed
    without a cluster, the seed alone is; and from the members of a set that no member found again only the finest level
    looks, for the others would meet more pieces of the same body, at four times the price of a look.

    Threads look from the next seeds of the permutation at once, and what they find is judged in its order; a seed that an
    earlier one has visited by then is dropped. So the outcome is that of the serial loop, whatever the number of threads
    (all that the process may use, unless given), and what is wasted are the looks that had begun.
    """
    n_vertices = graph.shape[0]
    order = rng.permutation(n_vertices)
    tolerances = tolerance_levels(n_vertices, settings)
    pending: collections.deque = collections.deque()
    next_seed = 0
    with LookPool(graph, settings, n_threads) as pool:
        claims = _Claims(graph, pool.walk.degrees, settings)
        is_coarse = tolerances > settings.tolerance  # all levels but the finest
        while next_seed < n_vertices or pending:
            while next_seed < n_vertices and len(pending) < TASKS_PER_THREAD * pool.n_threads:
                place, next_seed = next_seed, next_seed + 1
                seed, coarse = int(order[place]), bool(is_coarse[place])
                if not claims.passes_over(seed, coarse):
                    is_void = functools.partial(claims.passes_over, seed, coarse)
                    task = pool.submit(order[place : place + 1], tolerances[place : place + 1], is_void)
                    pending.append((next_seed, seed, coarse, task))
            if pending:
                done, seed, coarse, task = pending.popleft()
                for found in task.result():
                    claims.judge(seed, coarse, found)
            else:
                done = n_vertices
            if progress is not None:
                progress(done, n_vertices)
    return claims.clustering()


def tolerance_levels(order_length: int, settings: SearchSettings) -> Float[np.ndarray, " seeds"]:
    """Tolerance for each place in the permutation of seeds: a hundredth look finely, a tenth ten times as coarsely, ...

    A cluster of volume V needs a tolerance of about 1 / V and holds a share of the seeds in proportion to V: looks that see
    ten times as far cost ten times as much, and a tenth as many of them are needed.
    """
    levels = np.full(order_length, settings.tolerance * 10.0 ** (N_LEVELS - 1))
    for level in range(N_LEVELS - 1):
        levels[:: 10 ** (N_LEVELS - 1 - level)] = np.minimum(
            levels[:: 10 ** (N_LEVELS - 1 - level)], settings.tolerance * 10.0**level
        )
    return levels


class _Claims:
    """Which vertices are visited and which cluster holds them; what is found is judged seed by seed, in order."""

    def __init__(self, graph: sparse.csr_array, degrees: np.ndarray, settings: SearchSettings) -> None:
        self.graph, self.degrees, self.settings = graph, degrees, settings
        self.labels = np.full(graph.shape[0], UNCLUSTERED, np.int32)
        self.visited, self.refused = np.zeros(graph.shape[0], bool), np.zeros(graph.shape[0], bool)
        self.members: list[np.ndarray] = []
        self.seeds: list[int] = []
        self.n_looks = self.n_wasted = 0

    def passes_over(self, seed: int, is_coarse: bool) -> bool:
        """Whether there is no need to look from a seed, coarsely or not; once true, it stays so."""
        return bool(self.visited[seed] or (is_coarse and self.refused[seed]))

    def judge(self, seed: int, is_coarse: bool, found: Found) -> None:
        """Make a cluster of what was found from a seed, if it is one."""
        self.n_looks += 1
        if self.passes_over(seed, is_coarse):
            self.n_wasted += 1
            return
        self.visited[seed] = True
        if not found.confirmed:
            self.refused[found.vertices] = True
            return
        fresh = found.vertices[self.labels[found.vertices] == UNCLUSTERED]
        if self._is_cluster(fresh, found.vertices):
            self.labels[fresh] = len(self.members)
            self.visited[fresh] = True
            self.members.append(fresh.astype(np.int64))
            self.seeds.append(seed)

    def _is_cluster(self, fresh: np.ndarray, found: np.ndarray) -> bool:
        if len(fresh) < self.settings.min_size or 2 * len(fresh) < len(found):
            return False
        return len(fresh) == len(found) or conductance.conductance(self.graph, fresh) <= self.settings.max_conductance

    def clustering(self) -> Clustering:
        """What was found, described."""
        sizes = np.array([len(m) for m in self.members], dtype=np.int64)
        volume = np.array([self.degrees[m].sum() for m in self.members], dtype=np.float64)
        leaving = np.array([conductance.conductance(self.graph, m) for m in self.members], dtype=np.float64)
        density = (1 - leaving) * volume / np.maximum(sizes * (sizes - 1), 1)
        seeds = np.array(self.seeds, dtype=np.int64)
        return Clustering(
            self.labels, self.members, sizes, volume, leaving, density, seeds, self.n_looks, self.n_wasted
        )
