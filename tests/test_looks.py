"""Looks and stability: a clique is found again from each of its members, and noise is not."""

import numpy as np
import pytest
from scipy import sparse

from susc_pipeline.clustering import looks, search, stability
from susc_pipeline.clustering.looks import SearchSettings
from susc_pipeline.clustering.search import Clustering

SETTINGS = SearchSettings(min_size=5, main_body_fraction=0.3)


def ring_of_cliques(n_cliques, size):
    matrix = np.kron(np.eye(n_cliques), np.ones((size, size)))
    np.fill_diagonal(matrix, 0)
    for clique in range(n_cliques):
        a, b = clique * size, ((clique + 1) % n_cliques) * size + 1
        matrix[a, b] = matrix[b, a] = 1
    return sparse.csr_array(matrix.astype(np.float32))


def test_every_clique_of_a_ring_is_found_and_found_again():
    graph = ring_of_cliques(8, 30)
    found = search.find_clusters(graph, SETTINGS, np.random.default_rng(0))
    assert sorted(map(sorted, found.members)) == [list(range(30 * k, 30 * k + 30)) for k in range(8)]
    again = stability.stability(graph, (graph, graph), found, SETTINGS, np.random.default_rng(1))
    assert again.other_seeds.tolist() == again.dropped_points.tolist() == again.half_chains.tolist() == [1.0] * 8


@pytest.mark.parametrize("half", [0, 1])
def test_only_what_the_graphs_of_both_halves_of_the_chains_hold_is_found_again_there(half):
    """In one of them the first four cliques are as they were, and the vertices of the others strewn over four."""
    graph = ring_of_cliques(8, 30)
    strewn = np.concatenate([np.arange(120), 120 + np.random.default_rng(3).permutation(120)])
    found = search.find_clusters(graph, SETTINGS, np.random.default_rng(0))
    graphs = [graph, graph]
    graphs[half] = graph[strewn][:, strewn]
    again = stability.stability(graph, tuple(graphs), found, SETTINGS, np.random.default_rng(1))
    assert again.half_chains.tolist() == [float(members.max() < 120) for members in found.members]
    assert again.other_seeds.tolist() == [1.0] * 8


def test_a_set_that_is_no_cluster_is_not_found_again():
    graph = ring_of_cliques(8, 30)
    rng = np.random.default_rng(2)
    members = [rng.choice(240, size=30, replace=False)]
    labels = np.full(240, -1, np.int32)
    labels[members[0]] = 0
    one = np.ones(1)
    found = Clustering(labels, members, np.array([30]), 900 * one, one, one, members[0][:1], 1, 1, 0)
    again = stability.stability(graph, (graph, graph), found, SETTINGS, rng)
    assert again.other_seeds.tolist() == again.dropped_points.tolist() == again.half_chains.tolist() == [0.0]


def test_a_larger_graph_is_looked_at_no_wider_for_it():
    small, large = ring_of_cliques(8, 30), ring_of_cliques(80, 30)
    for graph in (small, large):
        with looks.LookPool(graph, SETTINGS, 1) as pool:
            found = pool.submit(lambda looker: looker.look(5, 1e-4)).result()
            again = pool.submit(lambda looker, found=found: looker.finds_again(found)).result()
        assert sorted(found.vertices.tolist()) == list(range(30)) and again


def test_levels_look_finely_from_one_seed_of_300_and_less_so_from_one_of_30():
    levels = search.tolerance_levels(10_000, SearchSettings())
    values, counts = np.unique(levels, return_counts=True)
    np.testing.assert_allclose(values, [1e-6, 1e-5, 1e-4])
    assert counts.tolist() == [34, 300, 9666]


@pytest.mark.parametrize("n_vertices", [1, 5])
def test_isolated_vertices_are_in_no_cluster(n_vertices):
    graph = sparse.csr_array((n_vertices, n_vertices), dtype=np.float32)
    found = search.find_clusters(graph, SETTINGS, np.random.default_rng(0))
    assert found.labels.tolist() == [-1] * n_vertices and found.n_looks == n_vertices
    assert len(stability.stability(graph, (graph, graph), found, SETTINGS, np.random.default_rng(0)).other_seeds) == 0


def test_components_of_a_disconnected_graph_are_clusters_of_conductance_zero():
    graph = sparse.csr_array(sparse.block_diag([np.ones((30, 30)) - np.eye(30)] * 5).astype(np.float32))
    found = search.find_clusters(graph, SETTINGS, np.random.default_rng(0))
    assert sorted(map(sorted, found.members)) == [list(range(30 * k, 30 * k + 30)) for k in range(5)]
    np.testing.assert_allclose(found.conductance, 0, atol=1e-6)


def test_a_tolerance_that_would_touch_everything_ends_with_the_right_clusters():
    settings = SearchSettings(min_size=5, main_body_fraction=0.3, tolerance=1e-14, teleport_probability=0.1)
    found = search.find_clusters(ring_of_cliques(6, 20), settings, np.random.default_rng(0))
    assert sorted(map(sorted, found.members)) == [list(range(20 * k, 20 * k + 20)) for k in range(6)]
