"""Conductance of a vertex set, and the sweep cut: the prefix of an ordering with least conductance.

Orderings come from pagerank.py; which cuts count as clusters is decided in search.py.

Convention: leaving is the weight of edges from members to the rest; staying the weight of edges among members, counted
from both ends, so that leaving + staying is the members' volume (sum of weighted degrees). Conductance is
leaving / min(volume, volume of the rest), which is leaving / (leaving + staying), as published for susceptibility
clusters, while the set holds at most half of the graph's volume.
"""

from typing import NamedTuple, no_type_check

import numba
import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from susc_pipeline.clustering import pagerank

ROUNDING = 1e-12


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
    ordering = ordering if max_size is None else ordering[:max_size]
    ordering = ordering[np.cumsum(degrees[ordering]) <= max_volume]
    rows = np.stack([graph.indptr[:-1], graph.indptr[1:]], axis=1)
    inverse = np.divide(1.0, degrees, out=np.zeros_like(degrees), where=degrees > 0)
    probabilities = graph.data * inverse[graph.indices]
    profile = np.empty(len(ordering))
    sweep(rows, graph.indices, probabilities, degrees, np.zeros_like(degrees), ordering, degrees.sum(), profile)
    if len(profile) < min_size:
        return SweepCut(0, 1.0, profile)
    best = min_size - 1 + int(np.argmin(profile[min_size - 1 :]))
    return SweepCut(best + 1, float(profile[best]), profile)


@numba.njit(cache=True, nogil=True)
@no_type_check  # numba cannot compile the wrapper that checks shapes in tests
def sweep(rows, targets, probabilities, degrees, joined_degree, ordering, total_volume, profile):
    """Write the conductance of every prefix of the ordering to `profile`.

    A vertex that joins turns its edges to members from leaving to staying: leaving += degree - 2 * (weight to members).
    A weight is probability * degree of the target, so `joined_degree`, zero but for members, needs no test of membership.
    """
    leaving, volume = 0.0, 0.0
    for position in range(len(ordering)):
        vertex = ordering[position]
        joined = 0.0
        for edge in range(rows[vertex, 0], rows[vertex, 1]):
            joined += probabilities[edge] * joined_degree[targets[edge]]
        joined_degree[vertex] = degrees[vertex]
        volume += degrees[vertex]
        leaving += degrees[vertex] - 2.0 * joined
        smaller = min(volume, total_volume - volume)
        # Cancellation can leave a closed set with -1e-12 where zero is meant, and a rest of 1e-9 where there is none.
        profile[position] = max(leaving, 0.0) / smaller if smaller > ROUNDING * total_volume else 1.0
    for vertex in ordering:
        joined_degree[vertex] = 0.0


@numba.njit(cache=True, nogil=True)
@no_type_check
def sweep_pushed(space, ordering, total_volume, profile):
    """Sweep vertices that a push has reached, by the rows that it copied into its workspace."""
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
