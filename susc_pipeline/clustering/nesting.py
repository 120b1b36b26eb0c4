"""Sets of vertices and how they overlap: which are the same one, which hold others, and which give way to these."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

NONE = -1
SAME = 0.75  # Jaccard index from which on two sets are one; less, for a union has one half with each of two equal parts
INSIDE = 0.8


class Sets(NamedTuple):
    """Sets of vertices, each of which is cut from its core."""

    core: Int[np.ndarray, " sets"]
    conductance: Float[np.ndarray, " sets"]
    members: list[np.ndarray]
    """Vertices of each set, by falling PageRank over degree."""

    def take(self, numbers: Int[np.ndarray, " taken"]) -> "Sets":
        """Some of the sets, in this order."""
        return Sets(self.core[numbers], self.conductance[numbers], [self.members[number] for number in numbers])

    def with_others(self, others: "Sets") -> "Sets":
        """These sets and then the others."""
        cores, lowest = np.append(self.core, others.core), np.append(self.conductance, others.conductance)
        return Sets(cores, lowest, [*self.members, *others.members])

    def sizes(self) -> Int[np.ndarray, " sets"]:
        """Number of members of each."""
        return np.array([len(each) for each in self.members], dtype=np.int64)

    def incidence(self, n_vertices: int) -> sparse.csr_array:
        """Sets x vertices: 1 where the set holds the vertex."""
        ends = np.concatenate([[0], np.cumsum(self.sizes())])
        columns = np.concatenate([np.empty(0, np.int32), *self.members])
        return sparse.csr_array((np.ones(len(columns), np.int32), columns, ends), shape=(len(ends) - 1, n_vertices))


def overlap_by(jaccard: float, n_shared: np.ndarray, n_some: np.ndarray, n_others: np.ndarray) -> np.ndarray:
    """Whether the Jaccard index of two sets that share so many members is as large as that."""
    return n_shared >= jaccard * (n_some + n_others - n_shared)


def representatives(sets: Sets, n_vertices: int) -> Int[np.ndarray, " representatives"]:
    """Of sets that are the same one, found again and again, the one that leaks least."""
    incidence = sets.incidence(n_vertices)
    sizes, pairs = sets.sizes(), (incidence @ incidence.T).tocoo()
    same = overlap_by(SAME, pairs.data, sizes[pairs.row], sizes[pairs.col])
    alike = sparse.csr_array((same[same], (pairs.row[same], pairs.col[same])), shape=pairs.shape)
    is_open, chosen = np.ones(len(sizes), bool), []
    for number in np.lexsort([sets.core, -sizes, sets.conductance]).tolist():
        if is_open[number]:
            chosen.append(number)
            is_open[alike.indices[alike.indptr[number] : alike.indptr[number + 1]]] = False
    return np.array(chosen, dtype=np.int64)


def within(sets: Sets, n_vertices: int) -> sparse.csr_array:
    """Children x parents: 1 where the parent holds four fifths of the child, and the two are not the same set."""
    incidence = sets.incidence(n_vertices)
    sizes, pairs = sets.sizes(), (incidence @ incidence.T).tocoo()
    child, parent = pairs.row, pairs.col
    holds = (pairs.data >= INSIDE * sizes[child]) & ~overlap_by(SAME, pairs.data, sizes[child], sizes[parent])
    return sparse.csr_array((np.ones(holds.sum(), np.int32), (child[holds], parent[holds])), shape=pairs.shape)


def give_way(sets: Sets, met: Float[np.ndarray, " sets"], nested: sparse.csr_array) -> Bool[np.ndarray, " sets"]:
    """Whether two or more disjoint children, the better taken first, hold more than half of a set."""
    children, rank = nested.tocsc(), sets.conductance - met
    gives_way = np.zeros(len(sets.members), bool)
    for parent in np.flatnonzero(np.diff(children.indptr) > 1).tolist():
        inside = children.indices[children.indptr[parent] : children.indptr[parent + 1]]
        held, n_children = np.empty(0, np.int32), 0
        for child in inside[np.lexsort([inside, rank[inside]])].tolist():
            if np.isin(sets.members[child], held).mean() < 1 - INSIDE:
                held, n_children = np.union1d(held, sets.members[child]), n_children + 1
        n_held = int(np.isin(sets.members[parent], held).sum())
        gives_way[parent] = n_children > 1 and 2 * n_held > len(sets.members[parent])
    return gives_way


def smallest_parents(sets: Sets, nested: sparse.csr_array) -> Int[np.ndarray, " sets"]:
    """For each set its smallest parent; -1 where there is none."""
    sizes, pairs = sets.sizes(), nested.tocoo()
    order = np.argsort(-sizes[pairs.col], kind="stable")  # of several the last, and smallest, is kept
    parents = np.full(len(sizes), NONE)
    parents[pairs.row[order]] = pairs.col[order]
    return parents
