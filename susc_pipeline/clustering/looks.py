"""A look from a seed: push, order, sweep, and again from the core of what is found. The search over seeds is in search.py."""

import os
import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, no_type_check

import numba
import numpy as np
from jaxtyping import Int
from scipy import sparse

from susc_pipeline.clustering import pagerank
from susc_pipeline.clustering.conductance import sweep_pushed
from susc_pipeline.clustering.pagerank import Walk, push

Result = TypeVar("Result")

MAX_LOOKS = 5
VOLUME_TOLERANCE = 0.1
RISE = 1.25
SLACK = 1.25  # of max_conductance: a prefix seen from the edge of a cluster is worse than what the next look finds
SLOWER = 3.0
LEAST_RESTART = 0.03
REACH = 3  # times the prefix: what may join lies no farther down the ordering
MAX_PASSES = 5
N_PARTS = 4
AGAIN = 0.5
LEAST_GAIN = 1e-9  # of conductance, relative: rounding is no gain, or a vertex could join and leave for ever


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


class Found(NamedTuple):
    """What a look finds: the set of least conductance around the seed."""

    vertices: Int[np.ndarray, " prefix"]
    """By falling PageRank over degree; none where there is no set that may be a cluster."""
    volume: float
    """Sum of their weighted degrees."""


class Looker:
    """Looks into one graph, one at a time, with a workspace of its own."""

    def __init__(self, walk: Walk, total_volume: float, settings: SearchSettings) -> None:
        """A looker for one thread."""
        self.walk, self.space = walk, pagerank.workspace(walk)
        self.finest, self.restart = settings.tolerance, pagerank.plain_teleport(settings.teleport_probability)
        self.limits = (settings.min_size, settings.main_body_fraction, settings.max_conductance, total_volume)
        self.profile = np.empty(min(settings.max_size, len(walk.degrees)))

    @property
    def n_visited(self) -> int:
        """Edges visited since it was made: its work."""
        return int(self.space.counts[3])

    def look(self, seed: int, tolerance: float) -> Found:
        """Push, order and sweep from a seed, and again from the core of what is found."""
        return Found(
            *settle(self.walk, self.space, seed, self.restart, tolerance, self.finest, self.limits, self.profile)
        )

    def finds_again(self, found: Found) -> bool:
        """Whether a member of what was found sees the same set in one look: a Jaccard index of a half at least.

        Members a quarter, half and three quarters down the ordering are asked. A piece of the main body looks like a cluster
        from one seed, and like another one from each of its members.
        """
        tolerance = volume_tolerance(found.volume, self.finest)
        return finds_again(self.walk, self.space, found.vertices, self.restart, tolerance, self.limits, self.profile)


class LookPool:
    """Threads that look into one graph, each with a looker of its own; a context manager."""

    def __init__(self, graph: sparse.csr_array, settings: SearchSettings, n_threads: int | None = None) -> None:
        """Threads for all cores that the process may use, unless their number is given."""
        walk = pagerank.walk(graph)
        self.degrees, self.finest = walk.degrees, settings.tolerance
        total_volume = float(walk.degrees.sum())
        self.n_threads = n_threads or _n_usable_cores()
        self.lookers: queue.SimpleQueue[Looker] = queue.SimpleQueue()
        for _ in range(self.n_threads):
            self.lookers.put(Looker(walk, total_volume, settings))
        self.threads = ThreadPoolExecutor(self.n_threads)

    def __enter__(self) -> "LookPool":
        """The pool itself."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Wait for the looks begun and end the threads."""
        self.threads.shutdown()

    def submit(self, task: Callable[[Looker], Result]) -> Future[Result]:
        """What the task makes of a looker, some time."""
        return self.threads.submit(self._lend, task)

    def _lend(self, task: Callable[[Looker], Result]) -> Result:
        looker = self.lookers.get()
        try:
            return task(looker)
        finally:
            self.lookers.put(looker)


def _n_usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: a container or taskset may leave fewer than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@numba.njit(cache=True, nogil=True)
@no_type_check  # numba cannot compile the wrapper that checks shapes in tests
def volume_tolerance(volume, finest):
    """Tolerance that a look at a set of this volume needs: a tenth of the PageRank that each would hold if evenly spread."""
    return max(finest, VOLUME_TOLERANCE / volume)


@numba.njit(cache=True, nogil=True)
@no_type_check
def is_found_again(n_shared, n_members, n_others):
    """Whether two sets that share so many vertices are one set, found twice: a Jaccard index of a half at least."""
    return n_shared >= AGAIN * (n_members + n_others - n_shared)


@numba.njit(cache=True, nogil=True)
@no_type_check
def settle(walk, space, start, restart, tolerance, finest, limits, profile):
    """The members of the set around a vertex, none if it is no cluster, and their volume.

    What a cut finds is cut again from its core, as finely as its volume asks for and by a walk that returns less often, so
    that it reaches all of a long cluster, for as long as conductance falls.
    """
    _, _, max_conductance, _ = limits
    least, found, volume_found = np.inf, np.empty(0, space.vertex.dtype), 1.0
    for _ in range(MAX_LOOKS):
        members, leaving = _cut(walk, space, start, restart, tolerance, limits, profile)
        if leaving >= least:
            break
        core, volume = _core(space, members)
        least = leaving
        if leaving <= max_conductance:
            found, volume_found = space.vertex[members], volume
        restart = min(restart, max(restart / SLOWER, LEAST_RESTART))
        start, tolerance = space.vertex[core], volume_tolerance(volume, finest)
    return found, volume_found


@numba.njit(cache=True, nogil=True)
@no_type_check
def finds_again(walk, space, members, restart, tolerance, limits, profile):
    """Whether the cut from a member is the same set, for one at least of three members."""
    for part in range(1, N_PARTS if len(members) > 0 else 0):
        member = members[part * len(members) // N_PARTS]
        again, _ = _cut(walk, space, member, restart, tolerance, limits, profile)
        if is_found_again(_n_shared(members, space.vertex[again]), len(members), len(again)):
            return True
    return False


@numba.njit(cache=True, nogil=True)
@no_type_check
def _cut(walk, space, start, restart, tolerance, limits, profile):
    """Push, order, sweep and polish from a vertex; local members and their conductance, none and inf if there is no cut."""
    min_size, main_body_fraction, max_conductance, total_volume = limits
    none = np.empty(0, space.pushed.dtype)
    push(walk, space, start, restart, tolerance)
    pushed = space.pushed[: space.counts[1]]
    order = np.argsort(-space.pagerank[pushed], kind="mergesort")
    ordering = _within(space, pushed[order[: len(profile)]], main_body_fraction * total_volume)
    if len(ordering) < min_size:
        return none, np.inf
    sweep_pushed(space, ordering, total_volume, profile)
    best = min_size - 1 + np.argmin(profile[min_size - 1 : len(ordering)])
    if profile[best] > SLACK * max_conductance:
        return none, np.inf
    if len(ordering) < len(pushed) and profile[best : len(ordering)].max() < RISE * profile[best]:
        return none, np.inf
    return _polish(space, ordering[: REACH * (best + 1)], best + 1, min_size, total_volume)


@numba.njit(cache=True, nogil=True)
@no_type_check
def _n_shared(some, others):
    """How many vertices two sets share."""
    some, others, place, n_shared = np.sort(some), np.sort(others), 0, 0
    for vertex in some:
        while place < len(others) and others[place] < vertex:
            place += 1
        n_shared += place < len(others) and others[place] == vertex
    return n_shared


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
