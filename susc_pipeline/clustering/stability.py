"""How often a cluster is found again: from other seeds, without some points, without some chains. Finding is in search.py."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from susc_pipeline.clustering.looks import Looker, LookPool, SearchSettings, is_found_again, volume_tolerance
from susc_pipeline.clustering.search import Clustering

DROPPED = 0.1


class Stability(NamedTuple):
    """Share of looks, 0 ... 1 for each cluster, whose set has a Jaccard index of at least one half with the cluster."""

    other_seeds: Float[np.ndarray, " clusters"]
    """From members drawn at random, in the graph that the cluster was found in."""
    dropped_points: Float[np.ndarray, " clusters"]
    """From members drawn at random, in graphs without a tenth of the points; the cluster then is what is left of it."""
    half_chains: Float[np.ndarray, " clusters"]
    """From members drawn at random, in graphs of the same points by either half of the chains: the lesser of the two shares."""


def stability(
    graph: sparse.csr_array,
    half_graphs: tuple[sparse.csr_array, sparse.csr_array],
    clustering: Clustering,
    settings: SearchSettings,
    rng: np.random.Generator,
    *,
    n_looks: int = 5,
) -> Stability:
    """How often each cluster is found again, by `n_looks` looks of each kind, as fine as its volume asks for.

    A point that is dropped takes its edges with it and the others stay: the graph is the induced one, not a new graph of
    nearest neighbours. Each look of the second kind has a graph of its own. For the third kind the halves share no chain, no
    context and no draw: what the noise of one half made is not found by the other, so that the lesser share counts.
    """
    again = found_again(graph, clustering, settings, rng, n_looks=n_looks)
    thinned = []
    for _ in range(n_looks):
        kept = np.flatnonzero(rng.random(graph.shape[0]) >= DROPPED)
        with LookPool(graph[kept][:, kept], settings) as pool:
            thinned.append(_found_again(pool, kept, clustering, rng))
    by_half = [found_again(half, clustering, settings, rng, n_looks=n_looks) for half in half_graphs]
    return Stability(again, np.mean(thinned, axis=0), np.minimum(*by_half))


def found_again(
    graph: sparse.csr_array, clustering: Clustering, settings: SearchSettings, rng: np.random.Generator, *, n_looks: int
) -> Float[np.ndarray, " clusters"]:
    """Share of looks from members drawn at random that find each cluster in a graph of the same points."""
    whole = np.arange(graph.shape[0])
    with LookPool(graph, settings) as pool:
        return np.mean([_found_again(pool, whole, clustering, rng) for _ in range(n_looks)], axis=0)


def _found_again(
    pool: LookPool, kept: Int[np.ndarray, " kept"], clustering: Clustering, rng: np.random.Generator
) -> Float[np.ndarray, " clusters"]:
    """One look at each cluster from a random member in the graph of the vertices kept: 1 where it is found, else 0."""
    labels = clustering.labels[kept]
    sizes = np.bincount(labels[labels >= 0], minlength=len(clustering.size))
    # A cluster that lost every member cannot be looked at: it counts as not found.
    present = np.flatnonzero(sizes)
    found = looks_from(pool, random_members(labels, rng), clustering.volume[present])
    again = np.zeros(len(clustering.size))
    for cluster, vertices in zip(present, found, strict=True):
        shared = int(np.sum(labels[vertices] == cluster))
        again[cluster] = is_found_again(shared, len(vertices), int(sizes[cluster]))
    return again


def random_members(labels: Int[np.ndarray, " vertices"], rng: np.random.Generator) -> Int[np.ndarray, " clusters"]:
    """A member of each cluster that has any, in the order of the clusters."""
    order = rng.permutation(len(labels))
    order = order[labels[order] >= 0]
    return order[np.unique(labels[order], return_index=True)[1]]


def looks_from(
    pool: LookPool, seeds: Int[np.ndarray, " seeds"], volumes: Float[np.ndarray, " seeds"]
) -> list[np.ndarray]:
    """The vertices that a look from each seed finds, as finely as a set of that volume asks for."""
    tasks = [
        pool.submit(functools.partial(Looker.look, seed=seed, tolerance=volume_tolerance(volume, pool.finest)))
        for seed, volume in zip(seeds.tolist(), volumes.tolist(), strict=True)
    ]
    return [task.result().vertices for task in tasks]
