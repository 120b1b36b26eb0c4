"""Approximate personalised PageRank by local pushes. Orderings and cuts are in conductance.py, seeds in search.py.

Notation: A the symmetric weighted adjacency, d = A 1 the weighted degrees, D = diag(d), s the seed's indicator. The
lazy walk of Andersen, Chung & Lang (2006), W = (I + A D^-1) / 2, with teleport probability a has the fixed point

    pagerank(a, s) = a s + (1 - a) W pagerank(a, s).

The plain walk A D^-1 with teleport probability b = 2a / (1 + a) has the same fixed point for every s (Shun et al. 2016),
so the pushes below are those of the plain walk: the same guarantee for fewer pushes.

What makes it fast: residual and PageRank are kept divided by the degree, so that the stopping rule is a constant and a
vertex that is touched but never pushed needs nothing of its own from the graph; and the rows of pushed vertices are
copied once, renumbered by order of first touch, so that further pushes stay in a cache-sized copy. A row is turned into
probabilities as it is copied, so that the graph itself is only read: it may be a memory map that exceeds the memory.
"""

import mmap
import sys
from typing import NamedTuple, no_type_check

import numba
import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

EMPTY = -1
MAP_NORESERVE = 0x4000  # Linux's; Python's mmap does not name it


class SparseVector(NamedTuple):
    """A vector that is zero outside a few vertices."""

    vertices: Int[np.ndarray, " support"]
    values: Float[np.ndarray, " support"]


PLACE = np.dtype([("local", np.int32), ("inverse_degree", np.float32)])
"""What a touch needs to know of a vertex, side by side, for each is a miss of the cache."""


class Walk(NamedTuple):
    """The graph as the pushes read it: its own CSR arrays, never a copy of the edges, and the weighted degrees."""

    indptr: Int[np.ndarray, " rows"]
    indices: Int[np.ndarray, " edges"]
    weights: Float[np.ndarray, " edges"]
    degrees: Float[np.ndarray, " vertices"]


class Workspace(NamedTuple):
    """Arrays of one thread, made once; memory that no push reaches is never committed, and a push costs what it touches.

    Vertices have local numbers, by order of first touch; `table` holds that of a vertex, as PLACE. It is left empty by every
    call, as `joined_degree` is left zero; what else a push has touched stays to be read until the next.
    """

    table: np.ndarray
    vertex: Int[np.ndarray, " vertices"]
    residual: Float[np.ndarray, " vertices"]
    pagerank: Float[np.ndarray, " vertices"]
    degree: Float[np.ndarray, " vertices"]
    joined_degree: Float[np.ndarray, " vertices"]
    row: Int[np.ndarray, "vertices 2"]
    queue: Int[np.ndarray, "2 vertices"]
    pushed: Int[np.ndarray, " vertices"]
    target: Int[np.ndarray, " edges"]
    probability: Float[np.ndarray, " edges"]
    counts: Int[np.ndarray, " 4"]
    """Of the last push: vertices touched, vertices pushed, edges visited; of all: edges visited."""


def weighted_degrees(graph: sparse.csr_array) -> Float[np.ndarray, " vertices"]:
    """Sum of the edge weights at each vertex, in float64."""
    return np.asarray(graph.sum(axis=1, dtype=np.float64)).ravel()


def walk(graph: sparse.csr_array) -> Walk:
    """The walk on a symmetric graph."""
    indices, weights = np.asarray(graph.indices), np.asarray(graph.data)  # of a memory map the plain array
    return Walk(graph.indptr.astype(np.int64), indices.astype(np.int32, copy=False), weights, weighted_degrees(graph))


def workspace(graph: Walk) -> Workspace:
    """Arrays for cuts in a graph; one workspace for each thread."""
    n_vertices, n_edges = len(graph.degrees), len(graph.indices)
    table = np.zeros(n_vertices, PLACE)
    table["local"] = EMPTY
    np.divide(1.0, graph.degrees, out=table["inverse_degree"], where=graph.degrees > 0, casting="same_kind")
    return Workspace(
        table=table,
        vertex=np.empty(n_vertices, np.int32),
        residual=np.zeros(n_vertices),
        pagerank=np.zeros(n_vertices),
        degree=np.empty(n_vertices),
        joined_degree=np.zeros(n_vertices),
        row=np.full((n_vertices, 2), EMPTY, np.int64),
        queue=np.empty((2, n_vertices + 1), np.int32),
        pushed=np.empty(n_vertices, np.int32),
        target=_reserved(n_edges, np.dtype(np.int32)),
        probability=_reserved(n_edges, graph.weights.dtype),
        counts=np.zeros(4, np.int64),
    )


def _reserved(length: int, dtype: np.dtype) -> np.ndarray:
    """An array as long as the graph, of which a push uses a small part: address space, even beyond the memory there is."""
    if not sys.platform.startswith("linux") or length == 0:
        return np.empty(length, dtype)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    space = mmap.mmap(-1, length * dtype.itemsize, flags=flags)
    space.madvise(mmap.MADV_HUGEPAGE)  # as numpy does for its own: a tenth of the look-ups of addresses
    return np.frombuffer(space, dtype)


def personalized_pagerank(
    graph: sparse.csr_array | Walk,
    seed: int,
    *,
    teleport_probability: float,
    tolerance: float,
    space: Workspace | None = None,
) -> SparseVector:
    """PageRank of the lazy walk from one seed, short of the fixed point by at most tolerance * degree at each vertex.

    Returns p >= 0 with p + pagerank(a, r) = pagerank(a, s) and 0 <= r(v) <= tolerance * d(v): the guarantee of
    Andersen, Chung & Lang (2006, theorem 1). Work is at most 1 / (b * tolerance) units of weighted degree, whatever the
    size of the graph. Vertices come in the order of their first push; those never pushed have value 0 and are left out.
    The tolerance is per unit of weighted degree: doubling all weights and halving the tolerance changes nothing.
    """
    if not isinstance(graph, Walk):
        graph = walk(graph)
    check_push(len(graph.degrees), seed, teleport_probability, tolerance)
    if space is None:
        space = workspace(graph)
    push(graph, space, seed, plain_teleport(teleport_probability), tolerance)
    found = space.pushed[: space.counts[1]]
    return SparseVector(space.vertex[found].astype(np.int64), space.pagerank[found] * space.degree[found])


def plain_teleport(teleport_probability: float) -> float:
    """Teleport probability of the plain walk that has the lazy walk's fixed point."""
    return 2 * teleport_probability / (1 + teleport_probability)


def check_push(n_vertices: int, seed: int, teleport_probability: float, tolerance: float) -> None:
    """Refuse a seed outside the graph and parameters for which the pushes would not end."""
    if not 0 <= seed < n_vertices:
        raise ValueError(f"seed must be a vertex of the graph, 0 ... {n_vertices - 1}, got {seed}; give another seed")
    if not 0 < teleport_probability < 1:
        raise ValueError(
            f"teleport_probability must lie between 0 and 1, got {teleport_probability}; 0.001 is published"
        )
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}; with 0 the pushes never end")


@numba.njit(cache=True, nogil=True)
@no_type_check  # numba cannot compile the wrapper that checks shapes in tests
def push(graph, space, seed, teleport, tolerance):
    """Leave in the workspace what is touched from the seed: residual and PageRank over degree, and the rows pushed.

    One push at v keeps teleport * r(v) as PageRank and hands the rest to the neighbours in proportion to their edges.
    The queue is first in, first out, as rounds: what a round puts above the tolerance is the next round.
    """
    table, vertex, residual, pagerank, row = space.table, space.vertex, space.residual, space.pagerank, space.row
    target, probability, degrees = space.target, space.probability, graph.degrees
    last_touched = space.counts[0]
    residual[:last_touched], pagerank[:last_touched], row[:last_touched] = 0.0, 0.0, EMPTY
    n_touched, n_pushed, n_edges, n_visited = 1, 0, 0, 0
    vertex[0], table[seed].local = seed, 0
    residual[0] = 1.0 / degrees[seed] if degrees[seed] > 0.0 else 0.0
    this, space.queue[0, 0] = 0, 0
    n_now = 1 if residual[0] > tolerance else 0
    while n_now > 0:
        n_next = 0
        now, later = space.queue[this], space.queue[1 - this]
        for position in range(n_now):
            source = now[position]
            if row[source, 0] == EMPTY:
                first, last = graph.indptr[vertex[source]], graph.indptr[vertex[source] + 1]
                row[source, 0], row[source, 1] = n_edges, n_edges + last - first
                space.degree[source] = degrees[vertex[source]]
                space.pushed[n_pushed] = source
                n_pushed += 1
                for edge in range(first, last):
                    neighbor = graph.indices[edge]
                    place = table[neighbor]
                    # Written always, new or not, for a branch would be mispredicted.
                    is_new = place.local == EMPTY
                    local = n_touched if is_new else place.local
                    place.local, vertex[local] = local, neighbor
                    n_touched += is_new
                    target[n_edges] = local
                    probability[n_edges] = graph.weights[edge] * place.inverse_degree
                    n_edges += 1
            mass, residual[source] = residual[source], 0.0
            pagerank[source] += teleport * mass
            share = (1.0 - teleport) * mass
            for edge in range(row[source, 0], row[source, 1]):
                neighbor = target[edge]
                before = residual[neighbor]
                after = before + share * probability[edge]
                residual[neighbor] = after
                # A vertex is in the queue exactly while its residual exceeds the tolerance: no flag is needed. Written
                # always and counted where due, for a branch would be mispredicted.
                later[n_next] = neighbor
                n_next += (before <= tolerance) & (after > tolerance)
            n_visited += row[source, 1] - row[source, 0]
        this, n_now = 1 - this, n_next
    for local in range(n_touched):
        table[vertex[local]].local = EMPTY
    space.counts[0], space.counts[1], space.counts[2] = n_touched, n_pushed, n_visited
    space.counts[3] += n_visited
