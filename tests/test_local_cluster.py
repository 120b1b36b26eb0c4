"""Cuts and what they lead to: cliques of a ring, components, isolated vertices; and clusters that come again by chance."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_mutual_info_score

from susc_pipeline.clustering import conductance, nesting, reproducibility, search
from susc_pipeline.clustering.cuts import CutPool
from susc_pipeline.clustering.local_cluster import SearchSettings
from susc_pipeline.clustering.nesting import Sets

SETTINGS = SearchSettings(min_size=5, main_body_fraction=0.3)


def ring_of_cliques(n_cliques, size):
    matrix = np.kron(np.eye(n_cliques), np.ones((size, size)))
    np.fill_diagonal(matrix, 0)
    for clique in range(n_cliques):
        a, b = clique * size, ((clique + 1) % n_cliques) * size + 1
        matrix[a, b] = matrix[b, a] = 1
    return sparse.csr_array(matrix.astype(np.float32))


def test_every_clique_of_a_ring_is_found_by_each_of_its_members():
    """Two neighbouring cliques leak half as much as one, but each member finds others: such a pair is no parent."""
    found = search.find_clusters(ring_of_cliques(8, 30), SETTINGS)
    assert sorted(map(sorted, found.members)) == [list(range(30 * k, 30 * k + 30)) for k in range(8)]
    assert found.met.tolist() == [1.0] * 8 and found.parent_size.tolist() == [0] * 8


def test_a_set_that_is_no_cluster_is_not_met_by_its_members():
    rng = np.random.default_rng(2)
    members = [rng.choice(240, size=30, replace=False), np.arange(30)]
    with CutPool(ring_of_cliques(8, 30), SETTINGS, 1) as pool:
        sets = Sets(np.array([members[0][0], 3]), np.ones(2), members)
        assert search.met_shares(pool, sets).tolist() == [0.0, 1.0]


def test_a_cut_has_the_conductance_volume_and_core_of_its_set():
    graph = ring_of_cliques(8, 30)
    with CutPool(graph, SETTINGS, 1) as pool:
        starts = np.arange(0, 240, 7)
        cuts = pool.cuts(starts, np.full(len(starts), 1e-4))
        for number, members in enumerate(cuts.sets()):
            assert cuts.conductance[number] == pytest.approx(conductance.conductance(graph, members), abs=1e-6)
            assert cuts.volume[number] == pytest.approx(pool.degrees[members].sum())
            assert cuts.core[number] in members and starts[number] in members


def test_a_larger_graph_takes_no_more_work_for_a_cut():
    visited = []
    for graph in (ring_of_cliques(8, 30), ring_of_cliques(80, 30)):
        with CutPool(graph, SETTINGS, 1) as pool:
            pool.cuts(np.array([5]), np.array([1e-4]))
            visited.append(pool.n_visited)
    assert visited[0] == visited[1]


@pytest.mark.parametrize("n_vertices", [1, 5])
def test_isolated_vertices_are_in_no_cluster(n_vertices):
    graph = sparse.csr_array((n_vertices, n_vertices), dtype=np.float32)
    found = search.find_clusters(graph, SETTINGS)
    assert found.labels.tolist() == [-1] * n_vertices and len(found.met) == len(found.parent_size) == 0


def test_components_of_a_disconnected_graph_are_clusters_of_conductance_zero():
    graph = sparse.csr_array(sparse.block_diag([np.ones((30, 30)) - np.eye(30)] * 5).astype(np.float32))
    found = search.find_clusters(graph, SETTINGS)
    assert sorted(map(sorted, found.members)) == [list(range(30 * k, 30 * k + 30)) for k in range(5)]
    np.testing.assert_allclose(found.conductance, 0, atol=1e-6)


def test_a_tolerance_that_would_touch_everything_ends_with_the_right_clusters():
    settings = SearchSettings(min_size=5, main_body_fraction=0.3, tolerance=1e-14, teleport_probability=0.1)
    found = search.find_clusters(ring_of_cliques(6, 20), settings)
    assert sorted(map(sorted, found.members)) == [list(range(20 * k, 20 * k + 20)) for k in range(6)]


def test_the_smallest_parent_holds_four_fifths_and_is_another_set():
    members = [np.arange(100), np.arange(30), np.arange(20, 98), np.arange(26), np.arange(90, 140)]
    sets = Sets(np.arange(5), np.zeros(5), members)
    parents = nesting.smallest_parents(sets, nesting.within(sets, 300))
    assert parents.tolist() == [-1, 0, -1, 0, -1]  # the third is most of the first; the fourth of the second


def test_a_set_gives_way_to_disjoint_children_that_hold_more_than_half_of_it():
    for others, expected in (
        ([np.arange(30), np.arange(40, 70)], True),
        ([np.arange(60)], False),  # a core is not two children
        ([np.arange(40), np.arange(20, 60)], False),  # nor are pieces that overlap
        ([np.arange(20), np.arange(40, 60)], False),
    ):
        members = [np.arange(100), *others]
        sets = Sets(np.arange(len(members)), np.zeros(len(members)), members)
        gives_way = nesting.give_way(sets, np.ones(len(members)), nesting.within(sets, 100))
        assert gives_way.tolist() == [expected] + [False] * len(others)


def test_a_cluster_is_as_reproducible_as_in_the_half_that_finds_it_worse():
    labels = np.repeat([0, 1, 2, -1], 10).astype(np.int32)
    half_a = np.where(np.arange(40) % 10 < 6, labels, -1).astype(np.int32)
    half_b = np.where(labels == 1, -1, labels).astype(np.int32)
    found = reproducibility.reproducibility(labels, half_a, half_b, n_clusters=3)
    np.testing.assert_allclose(found, [0.6, 0.0, 0.6])


def test_chance_keeps_what_token_identity_explains_and_no_more():
    rng = np.random.default_rng(0)
    tokens = rng.integers(50, size=20_000)
    by_token = np.where(tokens < 20, tokens, -1).astype(np.int32)
    other = np.where(rng.random(20_000) < 0.5, by_token, -1).astype(np.int32)
    table = reproducibility.table({"a": by_token, "b": by_token, "c": other}, tokens, rng)
    same = table.filter(first="a", second="b")
    assert same["first_matched"].to_list() == [1.0, 1.0]  # chance too: clusters that are tokens match whatever happens
    halved = table.filter(first="a", second="c", is_chance=False)
    expected = adjusted_mutual_info_score(by_token, other)
    assert halved["adjusted_mutual_information"].item() == pytest.approx(expected)
    np.testing.assert_array_equal(np.sort(reproducibility.within_tokens(other, tokens, rng)), np.sort(other))
    unrelated = rng.integers(-1, 20, size=20_000).astype(np.int32)
    chance = reproducibility.table({"a": unrelated, "b": unrelated}, np.zeros(20_000, int), rng)
    assert chance["first_matched"].to_list() == [1.0, 0.0]
    assert abs(chance["adjusted_mutual_information"][1]) < 0.01
