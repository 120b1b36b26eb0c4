"""Approximate personalised PageRank by local pushes. Orderings and cuts are in conductance.py, seeds in search.py.

Notation: A the symmetric weighted adjacency, d = A 1 the weighted degrees, D = diag(d), s the seed's indicator. The
lazy walk of Andersen, Chung & Lang (2006), W = (I + A D^-1) / 2, with teleport probability a has the fixed point

    pagerank(a, s) = a s + (1 - a) W pagerank(a, s).

The plain walk A D^-1 with teleport probability b = 2a / (1 + a) has the same fixed point for every s (Shun et al. 2016),
so the pushes below are those of the plain walk: the same guarantee for fewer pushes.
"""

from typing import NamedTuple, no_type_check

import numba
import numpy as np
from jaxtyping import Float, Int
from scipy import sparse


class SparseVector(NamedTuple):
    """A vector that is zero outside a few vertices."""

    vertices: Int[np.ndarray, " support"]
    values: Float[np.ndarray, " support"]


class PushWorkspace(NamedTuple):
    """Arrays of one entry per vertex, made once and left zero by every call: a push costs what it touches."""

    degrees: Float[np.ndarray, " vertices"]
    residual: Float[np.ndarray, " vertices"]
    pagerank: Float[np.ndarray, " vertices"]
    queue: Int[np.ndarray, " vertices"]
    support: Int[np.ndarray, " vertices"]


def weighted_degrees(graph: sparse.csr_array) -> Float[np.ndarray, " vertices"]:
    """Sum of the edge weights at each vertex, in float64."""
    return np.asarray(graph.sum(axis=1, dtype=np.float64)).ravel()


def push_workspace(degrees: Float[np.ndarray, " vertices"]) -> PushWorkspace:
    """Zeroed arrays for a graph with these weighted degrees; one workspace for each thread."""
    n_vertices = len(degrees)
    residual, pagerank = np.zeros(n_vertices), np.zeros(n_vertices)
    queue, support = np.empty(n_vertices, np.int64), np.empty(n_vertices, np.int64)
    return PushWorkspace(degrees, residual, pagerank, queue, support)


def personalized_pagerank(
    graph: sparse.csr_array,
    seed: int,
    *,
    teleport_probability: float,
    tolerance: float,
    workspace: PushWorkspace | None = None,
) -> SparseVector:
    """PageRank of the lazy walk from one seed, short of the fixed point by at most tolerance * degree at each vertex.

    Returns p >= 0 with p + pagerank(a, r) = pagerank(a, s) and 0 <= r(v) <= tolerance * d(v): the guarantee of
    Andersen, Chung & Lang (2006, theorem 1). Work is at most 1 / (b * tolerance) units of weighted degree, whatever the
    size of the graph. Vertices come in the order of their first push; those never pushed have value 0 and are left out.
    The tolerance is per unit of weighted degree: doubling all weights and halving the tolerance changes nothing.
    """
    check_push(graph, seed, teleport_probability, tolerance)
    if workspace is None:
        workspace = push_workspace(weighted_degrees(graph))
    plain_teleport = 2 * teleport_probability / (1 + teleport_probability)
    n_pushed = push(graph.indptr, graph.indices, graph.data, *workspace, seed, plain_teleport, tolerance)
    vertices = workspace.support[:n_pushed].copy()
    values = workspace.pagerank[vertices]
    workspace.pagerank[vertices] = 0
    return SparseVector(vertices, values)


def check_push(graph: sparse.csr_array, seed: int, teleport_probability: float, tolerance: float) -> None:
    """Refuse a seed outside the graph and parameters for which the pushes would not end."""
    if not 0 <= seed < graph.shape[0]:
        raise ValueError(
            f"seed must be a vertex of the graph, 0 ... {graph.shape[0] - 1}, got {seed}; give another seed"
        )
    if not 0 < teleport_probability < 1:
        raise ValueError(
            f"teleport_probability must lie between 0 and 1, got {teleport_probability}; 0.001 is published"
        )
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}; with 0 the pushes never end")


@numba.njit(cache=True, nogil=True)
@no_type_check  # numba cannot compile the wrapper that checks shapes in tests
def push(indptr, indices, weights, degrees, residual, pagerank, queue, support, seed, teleport, tolerance):
    """Number of vertices pushed; the PageRank is left in `pagerank`, the vertices in `support`, the residual zeroed.

    One push at v keeps teleport * r(v) as PageRank and hands the rest to the neighbours in proportion to their edges.
    """
    n_vertices = len(degrees)
    residual[seed] = 1.0
    queue[0] = seed
    head, n_queued, n_pushed = 0, 1, 0
    if degrees[seed] == 0.0 or tolerance * degrees[seed] >= 1.0:
        n_queued = 0
    while n_queued > 0:
        vertex = queue[head]
        head = head + 1 if head + 1 < n_vertices else 0
        n_queued -= 1
        if pagerank[vertex] == 0.0:
            support[n_pushed] = vertex
            n_pushed += 1
        mass = residual[vertex]
        residual[vertex] = 0.0
        pagerank[vertex] += teleport * mass
        share = (1.0 - teleport) * mass / degrees[vertex]
        for edge in range(indptr[vertex], indptr[vertex + 1]):
            neighbor = indices[edge]
            before = residual[neighbor]
            after = before + share * weights[edge]
            residual[neighbor] = after
            threshold = tolerance * degrees[neighbor]
            # A vertex is in the queue exactly while its residual exceeds the threshold: no flag is needed.
            if before <= threshold < after:
                tail = head + n_queued
                queue[tail if tail < n_vertices else tail - n_vertices] = neighbor
                n_queued += 1
    residual[seed] = 0.0
    for position in range(n_pushed):
        vertex = support[position]
        residual[vertex] = 0.0
        for edge in range(indptr[vertex], indptr[vertex + 1]):
            residual[indices[edge]] = 0.0
    return n_pushed
