"""A set around a vertex: push, order, sweep, polish. The search over vertices is in search.py."""

from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float

from susc_pipeline.clustering.conductance import sweep_pushed
from susc_pipeline.clustering.pagerank import push

VOLUME_TOLERANCE = 0.1
RISE = 1.25
SEPARATION = 2.0  # conductance behind a child, over its own, before its parent leaks less
SLACK = 1.25  # of max_conductance: a prefix seen from the edge of a cluster is worse than the one seen from its core
REACH = 3  # times the prefix: what may join lies no farther down the ordering
MAX_PASSES = 5
LEAST_GAIN = 1e-9  # of conductance, relative: rounding is no gain, or a vertex could join and leave for ever
FIRST_BUFFER = 4096


@dataclass(frozen=True)
class SearchSettings:
    """What counts as a cluster, and how far a cut reaches."""

    teleport_probability: float = 0.05
    """Probability, per step of the lazy walk, to return to the seed."""
    tolerance: float = 1e-6
    """PageRank left undistributed at a vertex, at most, per unit of weighted degree (mean degree: knn.n_neighbors), where
    a token is cut from most finely."""
    min_size: int = 20
    """Tokens of a cluster, at least."""
    max_size: int = 10_000
    """Tokens of a cluster, at most."""
    max_conductance: float = 0.45
    """Share of a cluster's edge weight that leaves it, at most."""
    main_body_fraction: float = 0.2
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


def volume_tolerance(volume: Float[np.ndarray, " sets"]) -> Float[np.ndarray, " sets"]:
    """PageRank tolerance that sets of these volumes need: a tenth of the share that evenly spread PageRank leaves a vertex."""
    return VOLUME_TOLERANCE / volume


@numba.njit(cache=True, nogil=True)
@no_type_check  # numba cannot compile the wrapper that checks shapes in tests
def cut_all(walk, space, starts, tolerances, restart, separation, limits, profile):
    """A cut from each start, as the fields of cuts.Cuts."""
    n_starts = len(starts)
    core, end = np.full(n_starts, -1, np.int64), np.zeros(n_starts, np.int64)
    volume, leaving = np.zeros(n_starts), np.full(n_starts, np.inf)
    members, n_members = np.empty(FIRST_BUFFER, np.int32), 0
    for place in range(n_starts):
        found, conductance = _cut(walk, space, starts[place], restart, tolerances[place], separation, limits, profile)
        if len(found) > 0:
            center, volume[place] = _core(space, found)
            core[place], leaving[place] = space.vertex[center], conductance
        if n_members + len(found) > len(members):
            larger = np.empty(2 * (n_members + len(found)), np.int32)
            larger[:n_members] = members[:n_members]
            members = larger
        members[n_members : n_members + len(found)] = space.vertex[found]
        n_members += len(found)
        end[place] = n_members
    return core, volume, leaving, end, members[:n_members].copy()


@numba.njit(cache=True, nogil=True)
@no_type_check
def _cut(walk, space, start, restart, tolerance, separation, limits, profile):
    """Push, order, sweep and polish from a vertex; local members and their conductance, none and inf if there is no cut.

    Prefixes of fewer than min_size vertices do not compete, nor do those of more than max_size or beyond
    main_body_fraction of the volume. Where the ordering goes on beyond these limits, conductance must rise by a quarter
    between the cut and the limit: else the prefix is a piece of what goes on. Of several prefixes that leak less than all
    before them the first is cut behind which conductance rises `separation` times as high: a child; inf gives its parent.
    """
    min_size, main_body_fraction, max_conductance, total_volume = limits
    none = np.empty(0, space.pushed.dtype)
    push(walk, space, start, restart, tolerance)
    pushed = space.pushed[: space.counts[1]]
    order = np.argsort(-space.pagerank[pushed], kind="mergesort")
    ordering = _within(space, pushed[order[: len(profile)]], main_body_fraction * total_volume)
    if len(ordering) < min_size:
        return none, np.inf
    sweep_pushed(space, ordering, total_volume, profile)
    best = _innermost(profile[: len(ordering)], min_size, separation)
    if profile[best] > SLACK * max_conductance:
        return none, np.inf
    if len(ordering) < len(pushed) and profile[best : len(ordering)].max() < RISE * profile[best]:
        return none, np.inf
    return _polish(space, ordering[: REACH * (best + 1)], best + 1, min_size, total_volume)


@numba.njit(cache=True, nogil=True)
@no_type_check
def _innermost(profile, min_size, separation):
    """The first prefix of least conductance so far that is well below what follows it; if there is none, the least of all."""
    best, peak = min_size - 1, 0.0
    for place in range(min_size, len(profile)):
        if profile[place] >= profile[best]:
            peak = max(peak, profile[place])
        elif peak >= separation * profile[best]:
            break
        else:
            best, peak = place, 0.0
    return best


@numba.njit(cache=True, nogil=True)
@no_type_check
def _within(space, ordering, max_volume):
    """The prefix of the ordering with at most this volume."""
    volume = 0.0
    for position in range(len(ordering)):
        volume += space.degree[ordering[position]]
        if volume > max_volume:
            return ordering[:position]
    return ordering


@numba.njit(cache=True, nogil=True)
@no_type_check
def _polish(space, ordering, n_first, min_size, total_volume):
    """The first vertices of the ordering, and others of it for as long as one that joins or leaves lowers conductance.

    A sweep sees prefixes only, and so may stop in the midst of a set that is larger than the walk's reach from the seed.
    Members come in the order of the ordering, with their conductance.
    """
    volume, leaving = 0.0, 0.0
    for member in ordering[:n_first]:
        space.joined_degree[member] = space.degree[member]
    n_members = n_first
    for member in ordering[:n_first]:
        volume += space.degree[member]
        leaving += space.degree[member] - _weight_to_members(space, member)
    for _ in range(MAX_PASSES):
        n_changed = 0
        for vertex in ordering:
            degree, is_member = space.degree[vertex], space.joined_degree[vertex] > 0.0
            if is_member and n_members <= min_size:
                continue
            sign = -1.0 if is_member else 1.0
            new_leaving = leaving + sign * (degree - 2.0 * _weight_to_members(space, vertex))
            new_volume = volume + sign * degree
            smaller, new_smaller = min(volume, total_volume - volume), min(new_volume, total_volume - new_volume)
            if new_leaving * smaller < leaving * new_smaller * (1.0 - LEAST_GAIN):
                leaving, volume = new_leaving, new_volume
                space.joined_degree[vertex] = 0.0 if is_member else degree
                n_members += -1 if is_member else 1
                n_changed += 1
        if n_changed == 0:
            break
    members, n_members = np.empty(n_members, ordering.dtype), 0
    for vertex in ordering:
        if space.joined_degree[vertex] > 0.0:
            members[n_members] = vertex
            n_members += 1
            space.joined_degree[vertex] = 0.0
    return members, max(leaving, 0.0) / min(volume, total_volume - volume)


@numba.njit(cache=True, nogil=True)
@no_type_check
def _weight_to_members(space, vertex):
    weight = 0.0
    for edge in range(space.row[vertex, 0], space.row[vertex, 1]):
        weight += space.probability[edge] * space.joined_degree[space.target[edge]]
    return weight


@numba.njit(cache=True, nogil=True)
@no_type_check
def _core(space, members):
    """The member with most edge weight to other members, and the members' volume."""
    volume, core, most = 0.0, members[0], -1.0
    for member in members:
        volume += space.degree[member]
        space.joined_degree[member] = space.degree[member]
    for member in members:
        staying = _weight_to_members(space, member)
        if staying > most:
            core, most = member, staying
    for member in members:
        space.joined_degree[member] = 0.0
    return core, volume
