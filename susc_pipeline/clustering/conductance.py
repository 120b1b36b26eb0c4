"""Conductance of a vertex set, and the sweep cut: the prefix of an ordering with least conductance.

Orderings come from pagerank.py; which cuts count as clusters is decided in search.py.

Convention: leaving is the weight of edges from members to the rest; staying the weight of edges among members, counted
from both ends, so that leaving + staying is the members' volume (sum of weighted degrees). Conductance here is
leaving / (leaving + staying), as published for susceptibility clusters. It equals the textbook cut / min(volume, rest)
while the set holds at most half of the graph's volume, and is 0 for the whole graph, where the textbook's is undefined.
"""

from typing import NamedTuple, no_type_check

import numba
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from susc_pipeline.clustering import pagerank


class SweepCut(NamedTuple):
    """The best prefix of an ordering (its first `size` vertices), and the conductance of every prefix looked at.

    No prefix within the limits: size 0 and conductance 1.
    """

    size: int
    conductance: float
    profile: Float[np.ndarray, " prefixes"]


class SweepWorkspace(NamedTuple):
    """Arrays of one entry per vertex, made once; `is_member` is left false by every call."""

    degrees: Float[np.ndarray, " vertices"]
    is_member: Bool[np.ndarray, " vertices"]


def sweep_workspace(degrees: Float[np.ndarray, " vertices"]) -> SweepWorkspace:
    """Arrays for a graph with these weighted degrees; one workspace for each thread."""
    return SweepWorkspace(degrees, np.zeros(len(degrees), np.bool_))


def conductance(graph: sparse.csr_array, members: Int[np.ndarray, " members"]) -> float:
    """Weight leaving the members over their volume; 1 where the volume is zero (isolated vertices)."""
    rows = graph[members]
    volume = float(rows.sum(dtype=np.float64))
    staying = float(rows[:, members].sum(dtype=np.float64))
    return 1.0 - staying / volume if volume > 0 else 1.0


def sweep_cut(
    graph: sparse.csr_array,
    ordering: Int[np.ndarray, " ordered"],
    *,
    min_size: int = 1,
    max_size: int | None = None,
    max_volume: float = np.inf,
    workspace: SweepWorkspace | None = None,
) -> SweepCut:
    """The prefix of the ordering with least conductance, of the smallest size where several are equal.

    Only prefixes of min_size ... max_size vertices and at most max_volume weighted degree compete; the profile begins
    at size 1 and ends with the last prefix within the upper limits.
    """
    if min_size < 1:
        raise ValueError(f"min_size must be at least 1, got {min_size}; an empty prefix has no conductance")
    if workspace is None:
        workspace = sweep_workspace(pagerank.weighted_degrees(graph))
    longest = len(ordering) if max_size is None else min(max_size, len(ordering))
    profile = np.empty(longest)
    n_prefixes = sweep(graph.indptr, graph.indices, graph.data, *workspace, ordering[:longest], max_volume, profile)
    profile = profile[:n_prefixes]
    if n_prefixes < min_size:
        return SweepCut(0, 1.0, profile)
    best = min_size - 1 + int(np.argmin(profile[min_size - 1 :]))
    return SweepCut(best + 1, float(profile[best]), profile)


@numba.njit(cache=True, nogil=True)
@no_type_check  # numba cannot compile the wrapper that checks shapes in tests
def sweep(indptr, indices, weights, degrees, is_member, ordering, max_volume, profile):
    """Number of prefixes within max_volume; their conductances are written to `profile`.

    A vertex that joins turns its edges to members from leaving to staying: leaving += degree - 2 * (weight to members).
    """
    leaving, volume, n_prefixes = 0.0, 0.0, 0
    for vertex in ordering:
        volume += degrees[vertex]
        if volume > max_volume:
            break
        joined = 0.0
        for edge in range(indptr[vertex], indptr[vertex + 1]):
            if is_member[indices[edge]]:
                joined += weights[edge]
        leaving += degrees[vertex] - 2.0 * joined
        is_member[vertex] = True
        # Cancellation can leave a closed set with -1e-12 where zero is meant.
        profile[n_prefixes] = max(leaving, 0.0) / volume if volume > 0.0 else 1.0
        n_prefixes += 1
    for vertex in ordering[:n_prefixes]:
        is_member[vertex] = False
    return n_prefixes
