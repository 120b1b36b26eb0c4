"""Sweep cuts against brute force; the search finds bells of a barbell and planted clusters, whatever the vertex order."""

import itertools

import numpy as np
import pytest
from scipy import sparse

import planted
from susc_pipeline.clustering import agreement, conductance, knn, pagerank, search
from susc_pipeline.clustering.knn import KNNSettings
from susc_pipeline.clustering.local_cluster import SearchSettings
from susc_pipeline.representation import moments, whitening


def random_graph(n_vertices, rng):
    upper = np.triu(rng.random((n_vertices, n_vertices)) * (rng.random((n_vertices, n_vertices)) < 0.5), 1)
    return sparse.csr_array((upper + upper.T).astype(np.float32))


def barbell(size):
    matrix = np.zeros((2 * size, 2 * size), np.float32)
    matrix[:size, :size] = matrix[size:, size:] = 1
    matrix[size - 1, size] = matrix[size, size - 1] = 1
    np.fill_diagonal(matrix, 0)
    return sparse.csr_array(matrix)


def brute_force(graph, members):
    matrix = graph.toarray().astype(np.float64)
    inside = np.isin(np.arange(len(matrix)), members)
    volume = min(matrix[inside].sum(), matrix[~inside].sum())
    return matrix[np.ix_(inside, ~inside)].sum() / volume if volume > 0 else 1.0


def test_conductance_and_sweep_equal_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(100):
        graph = random_graph(int(rng.integers(3, 15)), rng)
        ordering = rng.permutation(graph.shape[0])
        expected = [brute_force(graph, ordering[: k + 1]) for k in range(len(ordering))]
        cut = conductance.sweep_cut(graph, ordering, min_size=2)
        np.testing.assert_allclose(cut.profile, expected, atol=1e-6)
        assert cut.conductance == pytest.approx(min(expected[1:]), abs=1e-6)
        volume, pair = graph.sum(axis=1), ordering[:2]
        if volume[pair].sum() <= graph.sum() / 2:
            assert conductance.conductance(graph, pair) == pytest.approx(expected[1], abs=1e-6)


def test_the_sweep_of_pagerank_finds_the_best_cut_of_a_barbell():
    graph = barbell(6)
    vector = pagerank.personalized_pagerank(graph, 2, teleport_probability=0.05, tolerance=1e-9)
    order = vector.vertices[np.argsort(-vector.values / pagerank.weighted_degrees(graph)[vector.vertices])]
    cut = conductance.sweep_cut(graph, order, max_size=8)
    best = min(brute_force(graph, subset) for size in range(1, 8) for subset in itertools.combinations(range(12), size))
    assert set(order[: cut.size]) == set(range(6)) and cut.conductance == pytest.approx(best)


def test_a_barbell_gives_its_two_bells():
    settings = SearchSettings(min_size=5, main_body_fraction=0.6)
    found = search.find_clusters(barbell(20), settings)
    assert {frozenset(m.tolist()) for m in found.members} == {frozenset(range(20)), frozenset(range(20, 40))}
    np.testing.assert_allclose(found.conductance, 1 / (20 * 19 + 1))
    assert all(found.labels[m].tolist() == [k] * 20 for k, m in enumerate(found.members))


def whitened(world):
    basis = whitening.fit(moments.of(world.points), relative_floor=0.0)
    return whitening.transform(world.points, basis).astype(np.float32)


def test_planted_clusters_are_found_and_little_else():
    world = planted.plant(6000, 16, 20, np.random.default_rng(1), size_range=(30, 200))
    graph = knn.knn_graph(whitened(world), KNNSettings(), np.random.default_rng(0))
    settings = SearchSettings()
    found = search.find_clusters(graph, settings)
    matched = agreement.best_match_jaccard(world.labels.astype(np.int32), found.labels)
    assert np.mean(matched >= 0.8) >= 0.95, np.sort(matched)
    assert np.mean(agreement.best_match_jaccard(found.labels, world.labels.astype(np.int32)) < 0.3) <= 0.1


def test_twins_are_two_clusters_in_one_parent_and_stretched_clusters_stay_whole():
    rng = np.random.default_rng(0)
    for world in (planted.nested(3000, 16, 6, rng), planted.stretched(3000, 16, 6, rng)):
        graph = knn.knn_graph(whitened(world), KNNSettings(), np.random.default_rng(0))
        found = search.find_clusters(graph, SearchSettings())
        matched = agreement.best_match(world.labels.astype(np.int32), found.labels, n_clusters=len(world.kinds))
        assert matched.jaccard.min() >= 0.8 and len(found.members) == len(world.kinds)
        if world.kinds[0] == "twin":
            parents = found.parent_size[matched.partner].reshape(-1, 2)
            sizes = found.size[matched.partner].reshape(-1, 2).sum(axis=1)
            has_parent = parents.min(axis=1) > 0
            assert has_parent.mean() >= 0.5
            np.testing.assert_allclose(parents[has_parent, 0], sizes[has_parent], rtol=0.1)
            np.testing.assert_array_equal(*parents[has_parent].T)


@pytest.mark.parametrize("shape", ["uniform", "normal"])
def test_a_cloud_without_clusters_has_none(shape):
    """Whatever piece of it one vertex sees, its members see others: where half of them suffice, two such pieces pass."""
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(3000, 8)) if shape == "uniform" else rng.normal(size=(6000, 4))
    graph = knn.knn_graph(points.astype(np.float32), KNNSettings(), np.random.default_rng(0))
    assert len(search.find_clusters(graph, SearchSettings()).members) == 0


def test_a_second_search_gives_the_same_clusters_and_no_vertex_is_in_two():
    world = planted.plant(2000, 8, 8, np.random.default_rng(2), size_range=(30, 100))
    graph = knn.knn_graph(whitened(world), KNNSettings(), np.random.default_rng(0))
    settings = SearchSettings()
    a, b = (search.find_clusters(graph, settings) for _ in range(2))
    np.testing.assert_array_equal(a.labels, b.labels)
    together = np.concatenate(a.members)
    assert len(together) == len(set(together.tolist())) == int((a.labels >= 0).sum())


@pytest.mark.slow
def test_neither_threads_nor_the_numbering_of_vertices_change_a_cluster():
    world = planted.plant(10_000, 16, 20, np.random.default_rng(3), size_range=(20, 80))
    graph = knn.knn_graph(whitened(world), KNNSettings(), np.random.default_rng(0))
    settings = SearchSettings()
    alone, many = (search.find_clusters(graph, settings, n_threads=n) for n in (1, 2))
    np.testing.assert_array_equal(alone.labels, many.labels)
    np.testing.assert_array_equal(alone.seed, many.seed)
    np.testing.assert_array_equal(alone.conductance, many.conductance)
    order = np.random.default_rng(5).permutation(10_000)
    renumbered = search.find_clusters(graph[order][:, order], settings)
    matched = agreement.best_match_jaccard(alone.labels[order], renumbered.labels)
    assert len(alone.members) == len(renumbered.members) > 5 and matched.min() > 0.9


def test_progress_counts_to_the_number_of_first_cuts():
    seen = []
    settings = SearchSettings(min_size=5, main_body_fraction=0.6)
    search.find_clusters(barbell(20), settings, progress=lambda *a: seen.append(a))
    assert seen[-1] == (43, 43)  # 40 vertices, one of 30 and one of 300 of these: two and one


def test_graphs_are_symmetric_with_the_stated_mean_degree():
    points = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    for kernel in knn.KERNELS:
        graph = knn.knn_graph(points, KNNSettings(n_neighbors=10, kernel=kernel), np.random.default_rng(0))
        assert abs(graph - graph.T).max() < 1e-6 and not graph.diagonal().any()
        assert graph.sum() / 300 == pytest.approx(10, rel=1e-4)


def test_duplicate_points_do_not_break_the_graph():
    points = np.repeat(np.random.default_rng(0).normal(size=(20, 3)), 15, axis=0).astype(np.float32)
    graph = knn.knn_graph(points, KNNSettings(n_neighbors=10), np.random.default_rng(0))
    assert np.isfinite(graph.data).all() and graph.nnz > 0


def test_bad_points_and_settings_are_refused():
    points = np.zeros((10, 3), np.float32)
    with pytest.raises(ValueError, match="n_neighbors must be less than the number of points, got 45 for 10 points"):
        knn.knn_graph(points, KNNSettings(), np.random.default_rng(0))
    points[3, 1] = np.nan
    with pytest.raises(ValueError, match="points must be finite, got 1 of 10"):
        knn.knn_graph(points, KNNSettings(n_neighbors=3), np.random.default_rng(0))
    with pytest.raises(ValueError, match="kernel must be one of.*'cosine'"):
        KNNSettings(kernel="cosine")
    with pytest.raises(ValueError, match="max_conductance must lie between 0 and 1, got 2"):
        SearchSettings(max_conductance=2.0)


def test_agreement_of_a_clustering_with_itself_is_one_and_with_noise_about_zero():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-1, 5, size=4000).astype(np.int32) for _ in range(2))
    assert agreement.adjusted_rand_index(a, a) == 1 and abs(agreement.adjusted_rand_index(a, b)) < 0.01
    np.testing.assert_array_equal(agreement.best_match_jaccard(a, a), np.ones(5))
    assert agreement.best_match_jaccard(a, np.full(4000, -1, np.int32)).tolist() == [0] * 5


def test_the_table_of_agreement_has_a_row_for_each_pair():
    a = np.repeat(np.arange(3), 10).astype(np.int32)
    halved = np.where(np.arange(30) % 10 < 4, a, -1).astype(np.int32)
    table = agreement.table({"a": a, "same": a, "part": halved, "none": np.full(30, -1, np.int32)})
    assert table.height == 6 and table["first_clusters"].to_list() == [3, 3, 3, 3, 3, 3]
    assert table.row(0)[4:] == (1.0, 1.0, 1.0) and table.row(1)[5:] == (0.0, 0.0) and table.row(2)[5:] == (0.0, None)


def test_one_point_is_refused_and_hubs_and_outliers_leave_a_graph():
    with pytest.raises(ValueError, match="n_neighbors must be less than the number of points, got 1 for 1 points"):
        knn.knn_graph(np.zeros((1, 3), np.float32), KNNSettings(n_neighbors=1), np.random.default_rng(0))
    rng = np.random.default_rng(0)
    points = rng.normal(size=(400, 5)).astype(np.float32)
    points = np.concatenate([points / np.linalg.norm(points, axis=1)[:, None], np.zeros((1, 5)), np.full((1, 5), 1e6)])
    graph = knn.knn_graph(points.astype(np.float32), KNNSettings(n_neighbors=8), np.random.default_rng(0))
    found = search.find_clusters(graph, SearchSettings())
    assert np.isfinite(graph.data).all() and found.labels[401] == -1


def test_a_graph_that_memory_cannot_hold_is_refused_with_the_setting_that_makes_it_in_files():
    points = np.broadcast_to(np.float32(0), (10**10, 64))  # a view of one number
    with pytest.raises(ValueError, match=r"10,000,000,000 tokens.*GiB.*rows_at_once"):
        knn.knn_graph(points, KNNSettings(), np.random.default_rng(0))
