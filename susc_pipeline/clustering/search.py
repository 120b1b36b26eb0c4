"""The search for clusters: seed, PageRank, sweep, cluster, until every vertex is visited. Graphs come from knn.py."""

import collections
import os
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, no_type_check

import numba
import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from susc_pipeline.clustering import conductance, pagerank
from susc_pipeline.clustering.conductance import sweep
from susc_pipeline.clustering.pagerank import Walk, Workspace, push

UNCLUSTERED = -1
SEEDS_AT_ONCE = 4
TASKS_PER_THREAD = 3
N_LEVELS = 3
MAX_LOOKS = 5
VOLUME_TOLERANCE = 0.1


@dataclass(frozen=True)
class SearchSettings:
    """What counts as a cluster, and how far each seed looks."""

    teleport_probability: float = 0.05
    """Probability, per step of the lazy walk, to return to the seed."""
    tolerance: float = 1e-6
    """PageRank left undistributed at a vertex, at most, per unit of weighted degree (mean degree: knn.n_neighbors), where
    a seed is looked from most finely."""
    min_size: int = 20
    """Tokens of a cluster, at least."""
    max_size: int = 10_000
    """Tokens of a cluster, at most."""
    max_conductance: float = 0.4
    """Share of a cluster's edge weight that leaves it, at most."""
    main_body_fraction: float = 0.1
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
    rest with a hundred times (`tolerance_levels` says why). Core: what is found is looked at again from its member with
    most edge weight to other members, as finely as its volume asks for, as long as conductance falls; so a cluster is
    seen from its middle, whatever seed it was met from. Main body: a prefix of more than `max_size` vertices or
    `main_body_fraction` of the volume is none, and nor is one within the limits when a prefix of up to twice `max_size`
    has less conductance: it is a piece of what goes on. A set is a cluster if it has `min_size` vertices and at most
    `max_conductance`. Overlap: the first cluster, in order of seeds, keeps a vertex; what is left of a later one must
    keep at least half of it, and min_size and max_conductance hold for what is left. Members are then visited, so later
    seeds start elsewhere; of a seed without a cluster, the seed alone is.

    Threads look from the next seeds of the permutation at once, and what they find is judged in its order; a seed that an
    earlier one has visited by then is dropped. So the outcome is that of the serial loop, whatever the number of threads
    (all that the process may use, unless given), and what is wasted are the dropped looks.
    """
    n_vertices = graph.shape[0]
    n_threads = n_threads or _n_usable_cores()
    walk = pagerank.walk(graph)
    spaces: queue.SimpleQueue = queue.SimpleQueue()
    for _ in range(n_threads):
        spaces.put(pagerank.workspace(walk))

    def look(chosen: np.ndarray) -> list[np.ndarray]:
        space = spaces.get()
        try:
            return look_from(walk, order[chosen], tolerances[chosen], settings, space)
        finally:
            spaces.put(space)

    claims = _Claims(graph, walk.degrees, settings)
    order = rng.permutation(n_vertices)
    tolerances = tolerance_levels(n_vertices, settings)
    pending: collections.deque = collections.deque()
    next_seed = 0
    with ThreadPoolExecutor(n_threads) as pool:
        while next_seed < n_vertices or pending:
            while next_seed < n_vertices and len(pending) < TASKS_PER_THREAD * n_threads:
                chosen, next_seed = _unvisited(order, next_seed, claims.visited)
                pending.append((next_seed, chosen, pool.submit(look, chosen)))
            done, chosen, task = pending.popleft()
            for seed, found in zip(order[chosen].tolist(), task.result(), strict=True):
                claims.judge(seed, found)
            if progress is not None:
                progress(done, n_vertices)
    return claims.clustering()


def _n_usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: a container or taskset may leave fewer than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _unvisited(order, start: int, visited) -> tuple[np.ndarray, int]:
    """Places in the permutation of the next unvisited seeds, and where to go on from."""
    stop = start
    chosen: list[int] = []
    while stop < len(order) and len(chosen) < SEEDS_AT_ONCE:
        places = np.arange(stop, min(stop + SEEDS_AT_ONCE - len(chosen), len(order)))
        chosen.extend(places[~visited[order[places]]].tolist())
        stop += len(places)
    return np.array(chosen, np.int64), stop


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


def look_from(
    walk: Walk,
    seeds: Int[np.ndarray, " seeds"],
    tolerances: Float[np.ndarray, " seeds"],
    settings: SearchSettings,
    space: Workspace,
) -> list[Int[np.ndarray, " prefix"]]:
    """For each seed the set of least conductance around it, or nothing where it is no cluster."""
    found = np.empty((len(seeds), min(settings.max_size, len(walk.degrees))), np.int32)
    sizes = np.zeros(len(seeds), np.int64)
    look(
        walk,
        space,
        seeds,
        pagerank.plain_teleport(settings.teleport_probability),
        tolerances,
        settings.tolerance,
        settings.min_size,
        settings.main_body_fraction,
        settings.max_conductance,
        found,
        sizes,
    )
    return [row[:size].copy() for row, size in zip(found, sizes)]


@numba.njit(cache=True, nogil=True)
@no_type_check  # numba cannot compile the wrapper that checks shapes in tests
def look(walk, space, seeds, teleport, tolerances, finest, min_size, main_body_fraction, max_conductance, found, sizes):
    """Push, order and sweep from each seed; a set that is a cluster is written to `found`, its size to `sizes`.

    What is found is looked at again from its core, as finely as its volume asks for, for as long as conductance falls.
    """
    total_volume = walk.degrees.sum()
    profile = np.empty(2 * found.shape[1])
    for number in range(len(seeds)):
        start, tolerance, least = seeds[number], tolerances[number], np.inf
        for _ in range(MAX_LOOKS):
            push(walk, space, start, teleport, tolerance)
            pushed = space.pushed[: space.counts[1]]
            # Twice as far as a cluster may reach, to see whether it would rather go on.
            ordering = pushed[np.argsort(-space.pagerank[pushed], kind="mergesort")][: len(profile)]
            if len(ordering) < min_size:
                break
            sweep(
                space.row,
                space.target,
                space.probability,
                space.degree,
                space.joined_degree,
                ordering,
                total_volume,
                profile,
            )
            best = min_size - 1 + np.argmin(profile[min_size - 1 : len(ordering)])
            if best >= found.shape[1] or profile[best] > max_conductance or profile[best] >= least:
                break
            members = ordering[: best + 1]
            core, volume = _core(space, members)
            if volume > main_body_fraction * total_volume:
                break
            least, sizes[number] = profile[best], best + 1
            found[number, : best + 1] = space.vertex[members]
            start, tolerance = space.vertex[core], max(finest, min(tolerance, VOLUME_TOLERANCE / volume))


@numba.njit(cache=True, nogil=True)
@no_type_check
def _core(space, members):
    """The member with most edge weight to other members, and the members' volume."""
    volume, core, most = 0.0, members[0], -1.0
    for member in members:
        volume += space.degree[member]
        space.joined_degree[member] = space.degree[member]
    for member in members:
        staying = 0.0
        for edge in range(space.row[member, 0], space.row[member, 1]):
            staying += space.probability[edge] * space.joined_degree[space.target[edge]]
        if staying > most:
            core, most = member, staying
    for member in members:
        space.joined_degree[member] = 0.0
    return core, volume


class _Claims:
    """Which vertices are visited and which cluster holds them; what is found is judged seed by seed, in order."""

    def __init__(self, graph: sparse.csr_array, degrees: np.ndarray, settings: SearchSettings) -> None:
        self.graph, self.degrees, self.settings = graph, degrees, settings
        self.labels = np.full(graph.shape[0], UNCLUSTERED, np.int32)
        self.visited = np.zeros(graph.shape[0], bool)
        self.members: list[np.ndarray] = []
        self.seeds: list[int] = []
        self.n_looks = self.n_wasted = 0

    def judge(self, seed: int, found: np.ndarray) -> None:
        """Make a cluster of what was found from a seed, if it is one."""
        self.n_looks += 1
        if self.visited[seed]:
            self.n_wasted += 1
            return
        self.visited[seed] = True
        fresh = found[self.labels[found] == UNCLUSTERED]
        if self._is_cluster(fresh, found):
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
