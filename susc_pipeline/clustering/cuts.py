"""Cuts from many vertices at once, by threads: the result does not depend on their number. One cut is in local_cluster.py."""

import os
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from susc_pipeline.clustering import local_cluster, pagerank
from susc_pipeline.clustering.local_cluster import SEPARATION, SearchSettings

CUTS_AT_ONCE = 256
SLOWER = 3.0  # of later cuts: a walk that returns less often reaches all of a long cluster
LEAST_RESTART = 0.03


class Cuts(NamedTuple):
    """One cut for each vertex started from; where there is no set, core -1, volume 0 and conductance infinite."""

    core: Int[np.ndarray, " starts"]
    """The member with most edge weight to other members."""
    volume: Float[np.ndarray, " starts"]
    """Sum of the members' weighted degrees."""
    conductance: Float[np.ndarray, " starts"]
    """Weight that leaves over volume."""
    end: Int[np.ndarray, " starts"]
    """Where each set ends in `members`; it begins where the one before ends."""
    members: Int[np.ndarray, " members"]
    """Vertices of all sets, each set by falling PageRank over degree; none of first cuts."""

    def sets(self) -> list[np.ndarray]:
        """The vertices of each set."""
        return np.split(self.members, self.end)[:-1]


class CutPool:
    """Threads that cut in one graph, each with a workspace of its own; a context manager."""

    def __init__(
        self,
        graph: sparse.csr_array,
        settings: SearchSettings,
        n_threads: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Threads for all cores that the process may use, unless their number is given; progress counts first cuts."""
        self.settings, self.progress = settings, progress or (lambda done, total: None)
        self.walk = pagerank.walk(graph)
        self.degrees = self.walk.degrees
        self.limits = (
            settings.min_size,
            settings.main_body_fraction,
            settings.max_conductance,
            float(self.degrees.sum()),
        )
        self.n_cuts = 0
        n_threads = n_threads or _n_usable_cores()
        self.spaces = [pagerank.workspace(self.walk) for _ in range(n_threads)]
        self.idle: queue.SimpleQueue = queue.SimpleQueue()
        for space in self.spaces:
            self.idle.put((space, np.empty(min(settings.max_size, len(self.degrees)))))
        self.threads = ThreadPoolExecutor(n_threads)

    def __enter__(self) -> "CutPool":
        """The pool itself."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Wait for the cuts begun and end the threads."""
        self.threads.shutdown()

    @property
    def n_visited(self) -> int:
        """Edges visited since it was made: its work."""
        return sum(int(space.counts[3]) for space in self.spaces)

    def cuts(
        self,
        starts: Int[np.ndarray, " starts"],
        tolerances: Float[np.ndarray, " starts"],
        *,
        is_first: bool = False,
        separation: float = SEPARATION,
    ) -> Cuts:
        """A cut from each start; first cuts by a walk that returns thrice as often, without their members."""
        restart = pagerank.plain_teleport(self.settings.teleport_probability)
        restart = restart if is_first else min(restart, max(restart / SLOWER, LEAST_RESTART))

        def part(first: int) -> Cuts:
            rows = slice(first, first + CUTS_AT_ONCE)
            space, profile = self.idle.get()
            try:
                found = local_cluster.cut_all(
                    self.walk, space, starts[rows], tolerances[rows], restart, separation, self.limits, profile
                )
            finally:
                self.idle.put((space, profile))
            return Cuts(*found[:-1], found[-1][:0] if is_first else found[-1])

        parts = []
        for found in self.threads.map(part, range(0, len(starts), CUTS_AT_ONCE)):
            parts.append(found)
            self.n_cuts += len(found.core)
            if is_first:
                self.progress(self.n_cuts, len(starts))
        return _joined(parts)


def _joined(parts: list[Cuts]) -> Cuts:
    none = Cuts(np.empty(0, np.int64), np.empty(0), np.empty(0), np.empty(0, np.int64), np.empty(0, np.int32))
    parts = [none, *parts]
    before = np.cumsum([0, *(len(part.members) for part in parts[:-1])])
    moved = [part._replace(end=part.end + first) for part, first in zip(parts, before, strict=True)]
    return Cuts(*(np.concatenate(columns) for columns in zip(*moved, strict=True)))


def _n_usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: a container or taskset may leave fewer than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
