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
from jaxtyping import Float, Int
from scipy import sparse

from susc_pipeline.clustering import pagerank


class SweepCut(NamedTuple):
    """The best prefix of an ordering (its first `size` vertices), and the conductance of every prefix looked at.

    No prefix within the limits: size 0 and conductance 1.
    """

    size: int
    conductance: float
    profile: Float[np.ndarray, " prefixes"]


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
) -> SweepCut:
    """The prefix of the ordering with least conductance, of the smallest size where several are equal.

    Only prefixes of min_size ... max_size vertices and at most max_volume weighted degree compete; the profile begins
    at size 1 and ends with the last prefix within the upper limits.
    """
    if min_size < 1:
        raise ValueError(f"min_size must be at least 1, got {min_size}; an empty prefix has no conductance")
    degrees = pagerank.weighted_degrees(graph)
    longest = len(ordering) if max_size is None else min(max_size, len(ordering))
    profile = np.empty(longest)
    rows = np.stack([graph.indptr[:-1], graph.indptr[1:]], axis=1)
    inverse = np.divide(1.0, degrees, out=np.zeros_like(degrees), where=degrees > 0)
    probabilities = graph.data * inverse[graph.indices]
    joined = np.zeros_like(degrees)
    n_prefixes = sweep(rows, graph.indices, probabilities, degrees, joined, ordering[:longest], max_volume, profile)
    profile = profile[:n_prefixes]
    if n_prefixes < min_size:
        return SweepCut(0, 1.0, profile)
    best = min_size - 1 + int(np.argmin(profile[min_size - 1 :]))
    return SweepCut(best + 1, float(profile[best]), profile)


@numba.njit(cache=True, nogil=True)
@no_type_check  # numba cannot compile the wrapper that checks shapes in tests
def sweep(rows, targets, probabilities, degrees, joined_degree, ordering, max_volume, profile):
    """Number of prefixes within max_volume; their conductances are written to `profile`.

    A vertex that joins turns its edges to members from leaving to staying: leaving += degree - 2 * (weight to members).
    A weight is probability * degree of the target, so `joined_degree`, zero but for members, needs no test of membership.
    """
    leaving, volume, n_prefixes = 0.0, 0.0, 0
    for vertex in ordering:
        volume += degrees[vertex]
        if volume > max_volume:
            break
        joined = 0.0
        for edge in range(rows[vertex, 0], rows[vertex, 1]):
            joined += probabilities[edge] * joined_degree[targets[edge]]
        leaving += degrees[vertex] - 2.0 * joined
        joined_degree[vertex] = degrees[vertex]
        # Cancellation can leave a closed set with -1e-12 where zero is meant.
        profile[n_prefixes] = max(leaving, 0.0) / volume if volume > 0.0 else 1.0
        n_prefixes += 1
    for vertex in ordering[:n_prefixes]:
        joined_degree[vertex] = 0.0
    return n_prefixes
