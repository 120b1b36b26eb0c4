"""Push PageRank against the dense solve, and its guarantee."""

import numpy as np
import pytest
from scipy import sparse

from susc_pipeline.clustering import pagerank


def random_graph(n_vertices, rng, density=0.2):
    upper = np.triu(rng.random((n_vertices, n_vertices)) * (rng.random((n_vertices, n_vertices)) < density), 1)
    return sparse.csr_array((upper + upper.T).astype(np.float32))


def dense_pagerank(graph, start, teleport):
    matrix = graph.toarray().astype(np.float64)
    degrees = matrix.sum(axis=0)
    walk = 0.5 * (np.eye(len(matrix)) + matrix / np.where(degrees > 0, degrees, 1.0))
    return np.linalg.solve(np.eye(len(matrix)) - (1 - teleport) * walk, teleport * start)


@pytest.mark.parametrize("teleport", [0.001, 0.05])
def test_push_equals_the_dense_solve_within_tolerance_times_degree_on_random_graphs(teleport):
    rng = np.random.default_rng(0)
    for _ in range(50):
        graph = random_graph(int(rng.integers(5, 40)), rng)
        seed, tolerance = int(rng.integers(graph.shape[0])), 1e-5
        degrees = pagerank.weighted_degrees(graph)
        if degrees[seed] == 0:
            continue
        found = np.zeros(graph.shape[0])
        vector = pagerank.personalized_pagerank(graph, seed, teleport_probability=teleport, tolerance=tolerance)
        found[vector.vertices] = vector.values
        exact = dense_pagerank(graph, np.eye(graph.shape[0])[seed], teleport)
        # p = pr(s) - pr(r) with 0 <= r <= tolerance d, and pr(d) = d on each component: the error is at most tolerance d.
        assert np.all(found <= exact + 1e-9) and np.all(exact - found <= tolerance * degrees * (1 + 1e-4) + 1e-9)


def test_mass_is_conserved_and_shrinks_with_tolerance():
    graph = random_graph(40, np.random.default_rng(1))
    masses = []
    for tolerance in (1e-2, 1e-4, 1e-8):
        vector = pagerank.personalized_pagerank(graph, 3, teleport_probability=0.05, tolerance=tolerance)
        masses.append(vector.values.sum())
    assert masses == sorted(masses) and masses[-1] <= 1 + 1e-12 and masses[-1] > 1 - 1e-4


def test_a_workspace_is_left_clean_and_changes_nothing():
    graph = random_graph(40, np.random.default_rng(2))
    walk = pagerank.walk(graph)
    space = pagerank.workspace(walk)
    options = {"teleport_probability": 0.01, "tolerance": 1e-5}
    alone = [pagerank.personalized_pagerank(graph, seed, **options) for seed in range(10)]
    shared = [pagerank.personalized_pagerank(walk, seed, **options, space=space) for seed in range(10)]
    for a, b in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(a.vertices, b.vertices)
        np.testing.assert_array_equal(a.values, b.values)
    assert np.all(space.table["local"] == pagerank.EMPTY) and not space.joined_degree.any()


def test_scaling_weights_and_tolerance_together_changes_nothing():
    graph = random_graph(30, np.random.default_rng(3))
    a = pagerank.personalized_pagerank(graph, 0, teleport_probability=0.02, tolerance=1e-4)
    b = pagerank.personalized_pagerank(4.0 * graph, 0, teleport_probability=0.02, tolerance=0.25e-4)
    np.testing.assert_array_equal(a.vertices, b.vertices)
    np.testing.assert_allclose(a.values, b.values, rtol=1e-6)


def test_bad_seeds_and_parameters_are_refused():
    graph = random_graph(5, np.random.default_rng(0))
    with pytest.raises(ValueError, match="seed must be a vertex.*got 9"):
        pagerank.personalized_pagerank(graph, 9, teleport_probability=0.1, tolerance=1e-3)
    with pytest.raises(ValueError, match="tolerance must be positive, got 0"):
        pagerank.personalized_pagerank(graph, 0, teleport_probability=0.1, tolerance=0.0)
    with pytest.raises(ValueError, match="teleport_probability must lie between 0 and 1, got 1"):
        pagerank.personalized_pagerank(graph, 0, teleport_probability=1.0, tolerance=1e-3)
