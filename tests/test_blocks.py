"""A graph built in files is that built in memory, whatever the blocks; a search through a memory map is the same search."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from susc_pipeline import arrays
from susc_pipeline.clustering import blocks, knn, neighbors, search
from susc_pipeline.clustering.knn import KNNSettings
from susc_pipeline.clustering.local_cluster import SearchSettings


def cloud(n_points=500, n_dimensions=6, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, n_dimensions)) * 6
    return (rng.normal(size=(n_points, n_dimensions)) + centres[rng.integers(5, size=n_points)]).astype(np.float32)


@pytest.mark.parametrize("rows_at_once", [1, 64, 137, 1000])
@pytest.mark.parametrize("kernel", knn.KERNELS)
def test_the_graph_does_not_depend_on_the_blocks(tmp_path, rows_at_once, kernel):
    points = cloud(200 if rows_at_once == 1 else 500)
    settings = KNNSettings(n_neighbors=9, kernel=kernel, backend="exact")
    whole = knn.knn_graph(points, settings, np.random.default_rng(0))
    parted = KNNSettings(n_neighbors=9, kernel=kernel, backend="exact", rows_at_once=rows_at_once)
    built = blocks.knn_graph(points, parted, np.random.default_rng(0), tmp_path)
    np.testing.assert_array_equal(built.indptr, whole.indptr)
    np.testing.assert_array_equal(built.indices, whole.indices)
    np.testing.assert_allclose(built.data, whole.data, rtol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "graph.safetensors"]


def test_with_no_rows_at_once_the_graph_is_the_one_in_memory_and_no_file_is_made(tmp_path):
    points, settings = cloud(), KNNSettings(n_neighbors=9)
    a = blocks.knn_graph(points, settings, np.random.default_rng(0), tmp_path / "none")
    assert not (a != knn.knn_graph(points, settings, np.random.default_rng(0))).nnz
    assert not (tmp_path / "none").exists()


def test_duplicates_and_missing_neighbours_come_through_blocks(tmp_path):
    points = np.repeat(cloud(40), 20, axis=0)
    settings = KNNSettings(n_neighbors=12, backend="ivf", rows_at_once=50)
    graph = blocks.knn_graph(points, settings, np.random.default_rng(0), tmp_path)
    assert np.isfinite(graph.data).all() and graph.sum() / len(points) == pytest.approx(12, rel=1e-4)
    assert abs(graph - graph.T).max() < 1e-6


@pytest.mark.slow
def test_a_search_through_a_memory_map_finds_the_same_clusters(tmp_path, monkeypatch):
    graph = knn.knn_graph(cloud(800), KNNSettings(n_neighbors=15), np.random.default_rng(0))
    knn.save(graph, tmp_path)
    monkeypatch.setattr(knn, "MAPPED_SHARE", 0.0)
    mapped = knn.load(tmp_path)
    assert not mapped.data.flags.owndata and not mapped.data.flags.writeable
    settings = SearchSettings(main_body_fraction=0.4)
    a, b = (search.find_clusters(each, settings) for each in (graph, mapped))
    assert len(a.members) >= 3
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_array_equal(a.conductance, b.conductance)


@pytest.mark.parametrize("queries, others", [(1 << 12, 1 << 18), (64, 100)])
def test_neighbours_by_products_are_those_of_the_index(monkeypatch, queries, others):
    monkeypatch.setattr(neighbors, "QUERIES_AT_ONCE_ON_GPU", queries)
    monkeypatch.setattr(neighbors, "POINTS_AT_ONCE_ON_GPU", others)
    points = cloud(350)
    by_index = neighbors.exact_neighbors(points, 8)
    by_products = neighbors.exact_by_products(points, slice(0, 350), 8, torch.device("cpu"))
    np.testing.assert_allclose(by_products.distances, by_index.distances, atol=1e-2)
    assert np.mean(by_products.indices == by_index.indices) > 0.99  # rounding may swap two of nearly equal distance


def test_an_inverted_file_finds_nearly_all_neighbours_inside_clusters():
    rng = np.random.default_rng(0)
    centres = 20 * rng.normal(size=(40, 8))
    points = (centres[rng.integers(40, size=6000)] + rng.normal(size=(6000, 8))).astype(np.float32)
    exact, found = (neighbors.nearest_neighbors(points, 10, b, np.random.default_rng(0)) for b in ("exact", "ivf"))
    recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(exact.indices, found.indices)])
    assert recall > 0.95, recall


def test_arrays_are_safetensors_that_either_library_reads(tmp_path):
    rng = np.random.default_rng(0)
    content = {"a": rng.normal(size=(5, 3)).astype(np.float32), "b": np.arange(7), "c": np.arange(3, dtype=np.int32)}
    stored = arrays.create(tmp_path / "x", {name: (part.dtype, part.shape) for name, part in content.items()})
    for name, part in content.items():
        stored[name][...] = part
    del stored
    for found in (load_file(tmp_path / "x"), arrays.read(tmp_path / "x")):
        assert sorted(found) == sorted(content)
        for name, part in content.items():
            np.testing.assert_array_equal(found[name], part)
            assert found[name].dtype == part.dtype
    save_file(content, tmp_path / "y")
    np.testing.assert_array_equal(arrays.read(tmp_path / "y")["a"], content["a"])


def test_damaged_files_are_named(tmp_path):
    arrays.create(tmp_path / "x", {"a": (np.dtype(np.float32), (100,))})
    whole = (tmp_path / "x").read_bytes()
    damages = {"cut short": whole[:-8], "no safetensors file": b"nothing of the kind", "no safetensors": whole[:20]}
    damages["damaged"] = whole.replace(b"[100]", b"[101]")
    for message, content in damages.items():
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            arrays.read(tmp_path / "x")


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="rows_at_once must be zero or more, got -1"):
        KNNSettings(rows_at_once=-1)
