"""LocalGraphClustering's push and sweep on the same graphs: the same vectors to the tolerance, and the same cuts."""

import numpy as np
import pytest
from scipy import sparse

from benchmarks import local_graph_clustering as peer
from susc_pipeline.clustering import conductance, pagerank

if not peer.is_installed():
    pytest.skip("make test-peer installs localgraphclustering", allow_module_level=True)


def random_graph(n_vertices, rng, weighted):
    chosen = np.triu(rng.random((n_vertices, n_vertices)) < 8 / n_vertices, 1)
    # Not below 1: the weighted peer counts edges where it requeues the vertex just pushed, and forgets one whose residual
    # lies between its degree and its number of edges.
    upper = chosen * (rng.uniform(1, 4, size=chosen.shape) if weighted else 1.0)
    return sparse.csr_array(upper + upper.T)


@pytest.mark.parametrize("weighted", [False, True])
def test_push_equals_the_peers_within_the_tolerance_on_a_hundred_random_graphs(weighted):
    rng = np.random.default_rng(0)
    for _ in range(100):
        graph = random_graph(int(rng.integers(20, 200)), rng, weighted)
        degrees = pagerank.weighted_degrees(graph)
        seed = int(rng.choice(np.flatnonzero(degrees)))
        options = {"teleport_probability": float(rng.choice([0.001, 0.01, 0.1])), "tolerance": 1e-5}
        ours, theirs = np.zeros((2, graph.shape[0]))
        vector = pagerank.personalized_pagerank(graph, seed, **options)
        ours[vector.vertices] = vector.values
        vertices, values = peer.pagerank(peer.graph(graph), seed, weighted=weighted, **options)
        theirs[vertices] = values
        # Both lie below the fixed point, by at most tolerance * degree.
        assert np.all(np.abs(ours - theirs) <= 1e-5 * degrees + 1e-14)


def test_sweep_equals_the_peers_on_larger_graphs():
    rng = np.random.default_rng(1)
    for _ in range(20):
        graph = random_graph(400, rng, True)
        half = pagerank.weighted_degrees(graph).sum() / 2
        ordering = rng.permutation(400)[:150]
        cut = conductance.sweep_cut(graph, ordering, max_volume=half)
        members, least = peer.sweep(peer.graph(graph), ordering[: len(cut.profile)])
        assert cut.conductance == pytest.approx(least, rel=1e-9)
        np.testing.assert_array_equal(ordering[: cut.size], members)
