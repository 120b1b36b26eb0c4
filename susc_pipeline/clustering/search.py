"""The search for clusters: cuts from all vertices, followed to the sets they lead to, and the choice among these.

A cut is in local_cluster.py, threads in cuts.py, graphs in knn.py. Vocabulary: a *place* is a vertex with a tolerance. The
cut from a place finds a set; the set's core, with the tolerance that its volume asks for, is the next place. A vertex
*leads to* the last set on its way along which conductance falls. The way from a place is the same whoever takes it, so
each place is cut once, and what is found depends on no order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from susc_pipeline.clustering import conductance, nesting
from susc_pipeline.clustering.cuts import CutPool
from susc_pipeline.clustering.local_cluster import SEPARATION, SearchSettings, volume_tolerance
from susc_pipeline.clustering.nesting import Sets

UNCLUSTERED = -1
STARTS_PER_CUT = (300, 30, 1)  # one start of so many at the finest level, at one ten and a hundred times as coarse
STEPS_PER_TENFOLD = 3  # of the tolerances of later places: each within a factor of 2.2 of what its set asks for
KEY_STEPS = 1 << 10  # more than there are steps of tolerance
MAX_ROUNDS = 8
AGAIN = 0.5  # Jaccard index from which on a set is found again
N_ASKED = 8
N_ASKED_FIRST = 3  # of the eight; a set that none of these finds is not asked further
LEAST_MET = 0.75
OUTER = 4.0  # times the volume of a set: how far its parent is looked for


class Clustering(NamedTuple):
    """Clusters by falling rank; a token belongs to at most one."""

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
    """Vertex that the cluster is cut from: the core of a set that its members find."""
    met: Float[np.ndarray, " clusters"]
    """Share of its members, of those asked, whose cut finds it again."""
    parent_size: Int[np.ndarray, " clusters"]
    """Members of the smallest larger set that holds it and passes the same rules; 0 where there is none."""
    parent_conductance: Float[np.ndarray, " clusters"]
    """Conductance of that set; nan where there is none."""
    n_cuts: int
    """Cuts made."""
    n_visited: int
    """Edges visited on the way."""


def find_clusters(
    graph: sparse.csr_array,
    settings: SearchSettings,
    *,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Clustering:
    """Clusters of a graph: the sets that three quarters of their own members find, the better first where they overlap.

    Candidates: cuts start from every vertex coarsely, and from one of 30 and one of 300, evenly spaced by weighted degree, ten
    and a hundred times as finely, for a large cluster has many starts. They are followed from core to core while conductance
    falls. Representative: of sets with a Jaccard index of three quarters the one that leaks least. Confirmation: cuts from
    eight members, evenly spaced from core to edge, must find the set again (Jaccard a half), six at least and one of the
    first three: pieces of the main body or of a longer cluster are different ones from each member. Parents: the set of least
    conductance at any scale around each core, where it is another one and is confirmed; a set gives way to two or more
    disjoint children, each four fifths inside it, that hold more than half of it. Rank: sets that give way last, else the
    share of members that find it minus conductance. Overlap: the set of higher rank keeps the tokens; what is left of a lower
    one must be half of it, and still have the minimum size and conductance. Each cluster's smallest parent is described.

    Nothing is random. The number of threads (all that the process may use, unless given) changes nothing; the numbering of
    the vertices nothing but ties and the last digits of sums.
    """
    with CutPool(graph, settings, n_threads, progress) as pool:
        sets, met = confirmed(pool, follow(pool, *first_starts(pool.degrees, settings.tolerance)), SEPARATION)
        outer, outer_met = confirmed(pool, surroundings(pool, sets), np.inf)
        sets, met = sets.with_others(outer), np.append(met, outer_met)
        nested = nesting.within(sets, graph.shape[0])
        order = np.lexsort([sets.core, sets.conductance - met, nesting.give_way(sets, met, nested)])
        chosen, members = choose(graph, sets, order, settings)
        parents = nesting.smallest_parents(sets, nested)[chosen]
        has_parent = parents != UNCLUSTERED
        return Clustering(
            **_described(graph, pool.degrees, members),
            seed=sets.core[chosen],
            met=met[chosen],
            parent_size=np.where(has_parent, sets.sizes()[parents], 0),
            parent_conductance=np.where(has_parent, sets.conductance[parents], np.nan),
            n_cuts=pool.n_cuts,
            n_visited=pool.n_visited,
        )


def first_starts(
    degrees: Float[np.ndarray, " vertices"], finest: float
) -> tuple[Int[np.ndarray, " starts"], Float[np.ndarray, " starts"]]:
    """Vertices to cut from, and the tolerance of each.

    A cluster of volume V needs a tolerance of about a tenth of 1 / V and holds a share of the vertices in proportion to V: cuts
    that see ten times as far cost ten times as much, and a tenth as many of them are needed.
    """
    order = np.argsort(degrees, kind="stable")
    parts = [order[::every] for every in STARTS_PER_CUT]
    tolerances = [np.full(len(part), finest * 10.0**level) for level, part in enumerate(parts)]
    return np.concatenate(parts), np.concatenate(tolerances)


def follow(pool: CutPool, starts: Int[np.ndarray, " starts"], tolerances: Float[np.ndarray, " starts"]) -> Sets:
    """The sets that the starts lead to, of at most the conductance allowed. Each place is cut once, round by round."""
    finest = pool.settings.tolerance
    first = pool.cuts(starts, tolerances, is_first=True)
    begun = np.unique(_places(first.core, first.volume, finest))
    known, following, lowest = np.array([UNCLUSTERED]), np.array([UNCLUSTERED]), np.array([np.inf])
    members: list[np.ndarray] = [np.empty(0, np.int32)]
    places = begun[begun != UNCLUSTERED]
    for _ in range(MAX_ROUNDS):
        cuts = pool.cuts(places // KEY_STEPS, finest * 10 ** (places % KEY_STEPS / STEPS_PER_TENFOLD))
        known, lowest = np.append(known, places), np.append(lowest, cuts.conductance)
        following = np.append(following, _places(cuts.core, cuts.volume, finest))
        members += cuts.sets()
        places = np.setdiff1d(following, known)
    order = np.argsort(known)
    known, following, lowest = known[order], following[order], lowest[order]
    number = np.minimum(np.searchsorted(known, following), len(known) - 1)
    ends = _ends(np.where(known[number] == following, number, 0), lowest)
    last = np.unique(ends[np.searchsorted(known, begun)])
    last = last[lowest[last] <= pool.settings.max_conductance]
    return Sets(known[last] // KEY_STEPS, lowest[last], [members[order[each]] for each in last])


def _places(core: np.ndarray, volume: np.ndarray, finest: float) -> Int[np.ndarray, " places"]:
    """A number for each place: the core, and the steps of tolerance above the finest; -1 where there is no core."""
    is_found = core != UNCLUSTERED
    asked = volume_tolerance(np.where(is_found, volume, 1.0)) / finest
    steps = np.minimum(np.floor(STEPS_PER_TENFOLD * np.log10(np.maximum(asked, 1.0))), KEY_STEPS - 1)
    return np.where(is_found, core * KEY_STEPS + steps.astype(np.int64), UNCLUSTERED)


def _ends(following: Int[np.ndarray, " places"], lowest: Float[np.ndarray, " places"]) -> Int[np.ndarray, " places"]:
    """The last place on the way from each along which conductance falls."""
    ends = np.arange(len(following))
    step = np.where(lowest[following] < lowest, following, ends)
    while not np.array_equal(step[ends], ends):
        ends = step[ends]
    return ends


def surroundings(pool: CutPool, sets: Sets) -> Sets:
    """The sets of least conductance, at whatever scale, around the cores of sets: where they differ, their parents."""
    tolerances = _tolerances(pool, sets) / OUTER
    cuts = pool.cuts(sets.core, np.maximum(pool.settings.tolerance, tolerances), separation=np.inf)
    sizes = [len(each) for each in cuts.sets()]
    shared = [np.isin(each, own).sum() for each, own in zip(cuts.sets(), sets.members, strict=True)]
    is_other = ~nesting.overlap_by(nesting.SAME, np.array(shared), np.array(sizes), sets.sizes())
    is_other &= cuts.conductance <= pool.settings.max_conductance
    found = Sets(sets.core, cuts.conductance, cuts.sets())
    return found.take(np.flatnonzero(is_other))


def confirmed(pool: CutPool, sets: Sets, separation: float) -> tuple[Sets, Float[np.ndarray, " sets"]]:
    """The representatives of sets that three quarters of the members asked find again, and the share of each that does."""
    sets = sets.take(nesting.representatives(sets, len(pool.degrees)))
    met = met_shares(pool, sets, separation)
    return sets.take(np.flatnonzero(met >= LEAST_MET)), met[met >= LEAST_MET]


def met_shares(pool: CutPool, sets: Sets, separation: float = SEPARATION) -> Float[np.ndarray, " sets"]:
    """Share of eight members of each set, evenly spaced from core to edge, whose cut finds the set again.

    The second, fifth and eighth are asked first; where none of them finds it, the share is 0.
    """
    is_met = np.zeros((len(sets.members), N_ASKED), bool)
    first = np.linspace(1, N_ASKED - 1, N_ASKED_FIRST).astype(np.int64)
    everywhere = np.arange(len(sets.members))
    is_met[:, first] = _is_met(pool, sets, everywhere, first, separation)
    others = np.setdiff1d(np.arange(N_ASKED), first)
    still = everywhere[is_met.any(axis=1)]
    is_met[np.ix_(still, others)] = _is_met(pool, sets, still, others, separation)
    return is_met.mean(axis=1)


def _is_met(
    pool: CutPool,
    sets: Sets,
    numbers: Int[np.ndarray, " sets"],
    asked: Int[np.ndarray, " asked"],
    separation: float,
) -> Bool[np.ndarray, "sets asked"]:
    """Whether the cuts from some members of some sets find these again."""
    places = (asked + 1) / (N_ASKED + 1)
    starts = [sets.members[number][(places * len(sets.members[number])).astype(np.int64)] for number in numbers]
    tolerances = np.repeat(_tolerances(pool, sets)[numbers], len(asked))
    found = pool.cuts(np.concatenate([np.empty(0, np.int32), *starts]), tolerances, separation=separation).sets()
    own = [sets.members[number] for number in numbers for _ in asked]
    shared = [np.isin(again, members).sum() for again, members in zip(found, own, strict=True)]
    sizes = [np.array([len(each) for each in some]) for some in (found, own)]
    return nesting.overlap_by(AGAIN, np.array(shared), *sizes).reshape(len(numbers), len(asked))


def _tolerances(pool: CutPool, sets: Sets) -> Float[np.ndarray, " sets"]:
    """The tolerance that each set's volume asks for."""
    volume = np.array([pool.degrees[each].sum() for each in sets.members])
    return np.maximum(pool.settings.tolerance, volume_tolerance(volume))


def choose(
    graph: sparse.csr_array, sets: Sets, ranked: Int[np.ndarray, " sets"], settings: SearchSettings
) -> tuple[list[int], list[np.ndarray]]:
    """Sets that keep half of their members, at least, from those that rank before them; their numbers, and what they keep."""
    is_free = np.ones(graph.shape[0], bool)
    chosen: list[int] = []
    kept: list[np.ndarray] = []
    for number in ranked.tolist():
        members = sets.members[number]
        left = members[is_free[members]]
        if len(left) < settings.min_size or 2 * len(left) < len(members):
            continue
        if len(left) == len(members) or conductance.conductance(graph, left) <= settings.max_conductance:
            is_free[left] = False
            chosen.append(number)
            kept.append(left.astype(np.int64))
    return chosen, kept


def _described(
    graph: sparse.csr_array, degrees: Float[np.ndarray, " vertices"], members: list[np.ndarray]
) -> dict[str, Any]:
    """What is known of clusters by their members and the graph alone, as fields of Clustering."""
    labels = np.full(graph.shape[0], UNCLUSTERED, np.int32)
    for number, each in enumerate(members):
        labels[each] = number
    size = np.array([len(each) for each in members], dtype=np.int64)
    volume = np.array([degrees[each].sum() for each in members], dtype=np.float64)
    leaving = np.array([conductance.conductance(graph, each) for each in members], dtype=np.float64)
    density = (1 - leaving) * volume / np.maximum(size * (size - 1), 1)
    names = ("labels", "members", "size", "volume", "conductance", "density")
    return dict(zip(names, (labels, members, size, volume, leaving, density), strict=True))
