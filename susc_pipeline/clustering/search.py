"""The search for clusters: look from seed after seed until every vertex is visited. A look is in looks.py, graphs in knn.py."""

import collections
import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from susc_pipeline.clustering import conductance
from susc_pipeline.clustering.looks import Looker, LookPool, SearchSettings

UNCLUSTERED = -1
VERTICES_PER_LOOK_AHEAD = 1000
LEAST_AHEAD, MOST_AHEAD = 2, 128  # looks for each thread
SEEDS_PER_LOOK = (300, 30)  # at the finest level, at the one ten times as coarse; all others look coarser still


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
    n_visited: int
    """Edges visited on the way."""
    n_wasted: int
    """Of these, those of looks in vain: from a seed that was to be passed over once its turn came."""


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
    prefix of least conductance. Levels: one of 300 seeds looks with `tolerance`, one of 30 with ten times that, the rest
    with a hundred times (`tolerance_levels` says why). Polish: vertices that follow the prefix join it, and members
    leave it, as long as that lowers conductance. Core: what is found is looked at again from its member with most edge
    weight to other members, as finely as its volume asks for and by a walk that returns to the seed a third as often, as
    long as conductance falls; so a cluster is seen from its middle, whatever seed it was met from, and a prefix may leak a
    quarter more than `max_conductance` to be looked at again. Main body: a prefix of more than `max_size` vertices or
    `main_body_fraction` of the volume is none; nor is one within these limits, where the ordering goes on beyond them,
    unless conductance rises by a quarter between it and the limit: else it is a piece of what goes on. A set is a cluster
    if it has `min_size` vertices and at most `max_conductance`, and one push and cut from one at least of three of its
    members finds it again (a Jaccard index of a half): pieces of the main body that pass the other rules seldom pass this
    one. Overlap: the first cluster, in order of seeds, keeps a vertex; what is left of a later one must keep at least half
    of it, and min_size and max_conductance hold for what is left. Members are then visited, so later seeds start elsewhere;
    of a seed without a cluster, the seed alone is; and from the members of a set that no member found again only the finest
    level looks, for the others would meet more pieces of the same body, at several times the price of a look.

    Threads look from the next seeds of the permutation at once, and what they find is judged in its order; a seed that an
    earlier one has visited by then is dropped, and so is a set that earlier clusters leave less than its half. So the
    outcome is that of the serial loop, whatever the number of threads (all that the process may use, unless given), and
    what is wasted are the looks that had begun. They run ahead of the look that is to be judged next, for one of the finest
    level takes as long as hundreds of others, but by no more than a thousandth of the vertices: what a look finds seldom
    holds one of so few seeds.
    """
    n_vertices = graph.shape[0]
    order = rng.permutation(n_vertices)
    tolerances = tolerance_levels(n_vertices, settings)
    pending: collections.deque = collections.deque()
    with LookPool(graph, settings, n_threads) as pool:
        claims = _Claims(graph, pool.degrees, settings)
        most_ahead = n_vertices // VERTICES_PER_LOOK_AHEAD
        n_ahead = min(max(most_ahead, LEAST_AHEAD * pool.n_threads), MOST_AHEAD * pool.n_threads)
        for done, (seed, tolerance) in enumerate(zip(order.tolist(), tolerances.tolist(), strict=True), start=1):
            if not claims.passes_over(seed, tolerance):
                pending.append((done, pool.submit(claims.turn(seed, tolerance))))
            while pending and (done == n_vertices or len(pending) >= n_ahead):
                n_done, task = pending.popleft()
                task.result()
                if progress is not None:
                    progress(n_done, n_vertices)
    if progress is not None:
        progress(n_vertices, n_vertices)
    return claims.clustering()


def tolerance_levels(order_length: int, settings: SearchSettings) -> Float[np.ndarray, " seeds"]:
    """Tolerance for each place in the permutation of seeds: one of 300 looks finely, one of 30 ten times as coarsely, ...

    A cluster of volume V needs a tolerance of about a tenth of 1 / V and holds a share of the seeds in proportion to V: looks
    that see ten times as far cost ten times as much, and a tenth as many of them are needed. With these shares a cluster
    holds some seven seeds of the level that it needs, or more.
    """
    levels = np.full(order_length, settings.tolerance * 10.0 ** len(SEEDS_PER_LOOK))
    for level, every in reversed(list(enumerate(SEEDS_PER_LOOK))):
        levels[::every] = settings.tolerance * 10.0**level
    return levels


@dataclasses.dataclass
class _Turn:
    """A seed whose turn is to come, and what a thread found from it."""

    seed: int
    tolerance: float
    is_done: bool = False
    n_visited: int = 0
    vertices: np.ndarray | None = None
    """None where it was passed over."""
    is_found_again: bool = False


class _Claims:
    """Which vertices are visited and which cluster holds them; what is found is judged seed by seed, in the order of turns.

    A thread that is done judges what is ready, and so begins the next look with all that is known. Threads ask of a state
    that moves on as they look, but what they ask for stays true once it is, and is asked again by the judge: they save
    themselves work that would be in vain, and decide nothing.
    """

    def __init__(self, graph: sparse.csr_array, degrees: np.ndarray, settings: SearchSettings) -> None:
        self.graph, self.degrees, self.settings = graph, degrees, settings
        self.labels = np.full(graph.shape[0], UNCLUSTERED, np.int32)
        self.visited, self.refused = np.zeros(graph.shape[0], bool), np.zeros(graph.shape[0], bool)
        self.members: list[np.ndarray] = []
        self.seeds: list[int] = []
        self.n_looks = self.n_visited = self.n_wasted = 0
        self.turns: collections.deque[_Turn] = collections.deque()
        self.judging = threading.Lock()

    def turn(self, seed: int, tolerance: float) -> Callable[[Looker], None]:
        """A task that looks from the seed, its turn after those of all tasks made before."""
        turn = _Turn(seed, tolerance)
        self.turns.append(turn)
        return functools.partial(self._take, turn)

    def passes_over(self, seed: int, tolerance: float) -> bool:
        """Whether there is no need to look from a seed, this finely."""
        return bool(self.visited[seed] or (tolerance > self.settings.tolerance and self.refused[seed]))

    def _take(self, turn: _Turn, looker: Looker) -> None:
        if not self.passes_over(turn.seed, turn.tolerance):
            before = looker.n_visited
            found = looker.look(turn.seed, turn.tolerance)
            turn.vertices = found.vertices
            turn.is_found_again = not self._is_taken(found.vertices) and looker.finds_again(found)
            turn.n_visited = looker.n_visited - before
        with self.judging:
            turn.is_done = True
            while self.turns and self.turns[0].is_done:
                self._judge(self.turns.popleft())

    def _is_taken(self, vertices: np.ndarray) -> bool:
        """Whether earlier clusters leave too little of a set, or there is none."""
        n_fresh = int(np.count_nonzero(self.labels[vertices] == UNCLUSTERED))
        return n_fresh < self.settings.min_size or 2 * n_fresh < len(vertices)

    def _judge(self, turn: _Turn) -> None:
        """Make a cluster of what was found from a seed, if it is one."""
        if turn.vertices is None:
            return
        self.n_looks += 1
        self.n_visited += turn.n_visited
        if self.passes_over(turn.seed, turn.tolerance):
            self.n_wasted += turn.n_visited
            return
        self.visited[turn.seed] = True
        if self._is_taken(turn.vertices):
            return
        if not turn.is_found_again:
            self.refused[turn.vertices] = True
            return
        fresh = turn.vertices[self.labels[turn.vertices] == UNCLUSTERED]
        if len(fresh) == len(turn.vertices) or self._leaks_little(fresh):
            self.labels[fresh] = len(self.members)
            self.visited[fresh] = True
            self.members.append(fresh.astype(np.int64))
            self.seeds.append(turn.seed)

    def _leaks_little(self, vertices: np.ndarray) -> bool:
        return bool(conductance.conductance(self.graph, vertices) <= self.settings.max_conductance)

    def clustering(self) -> Clustering:
        """What was found, described."""
        sizes = np.array([len(m) for m in self.members], dtype=np.int64)
        volume = np.array([self.degrees[m].sum() for m in self.members], dtype=np.float64)
        leaving = np.array([conductance.conductance(self.graph, m) for m in self.members], dtype=np.float64)
        density = (1 - leaving) * volume / np.maximum(sizes * (sizes - 1), 1)
        seeds = np.array(self.seeds, dtype=np.int64)
        counts = (self.n_looks, self.n_visited, self.n_wasted)
        return Clustering(self.labels, self.members, sizes, volume, leaving, density, seeds, *counts)
