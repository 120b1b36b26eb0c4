"""Stored artifacts that somebody else wrote or that were damaged: what was written, or an error that says what to make again."""

import functools
import json
import os

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from scipy import sparse

from fuzz_targets import MANIFEST
from hostile import NAMES, PASSWORDS, mutated, obeys
from resources import experiment, tables
from resources.files import StoreError
from resources.storage import Store
from susc_pipeline import arrays
from susc_pipeline.clustering import knn
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.representation import auxiliary, moments, pca, whitening

MATRIX = np.random.default_rng(0).standard_normal((40, 5))
GRAPH = sparse.random_array((30, 30), density=0.2, rng=np.random.default_rng(0), dtype=np.float32).tocsr()


def save_auxiliary(folder):
    model = auxiliary.AuxModel(4, 6, 2)
    torch.nn.init.ones_(model.encoder.weight), torch.nn.init.ones_(model.decoder.weight)
    auxiliary.save(model, folder)


FOLDERS = {
    "pca_basis": (lambda folder: pca.save(pca.fit(moments.of(MATRIX)), folder), pca.load),
    "whitening_basis": (
        lambda f: whitening.save(whitening.fit(moments.of(MATRIX), relative_floor=0.0), f),
        whitening.load,
    ),
    "aux_model": (save_auxiliary, auxiliary.load),
    "knn_graph": (lambda folder: knn.save(GRAPH, folder), knn.load),
    "rows of knn_graph": (lambda folder: knn.save(GRAPH, folder), lambda f: knn.open_stored(f).rows(0, 30)),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder of each kind, whole."""
    root = tmp_path_factory.mktemp("stored")
    for name, (save, _) in FOLDERS.items():
        save(root / name)
    return root


@given(st.data(), st.sampled_from(sorted(FOLDERS)))
def test_damaged_folders_are_read_or_refused(stored, data, name):
    file = data.draw(st.sampled_from(sorted((stored / name).iterdir())))
    original = file.read_bytes()
    try:
        file.write_bytes(data.draw(mutated(original) | st.binary(max_size=200)))
        found = obeys(lambda: FOLDERS[name][1](stored / name), str(stored / name))
    finally:
        file.write_bytes(original)
    if name.endswith("graph") and found is not None:
        assert found.shape[0] == found.shape[1] and (found.nnz == 0 or found.indices.max() < found.shape[0])


@given(st.sampled_from(["n_vertices", "count", "floor", "kind"]), st.sampled_from(sorted(FOLDERS)), st.data())
def test_any_value_in_a_configuration_is_taken_or_refused(stored, key, name, data):
    values = (
        st.integers() | st.floats() | st.none() | st.text(max_size=3) | st.just([]) | st.sampled_from([10**400, 29])
    )
    file = stored / name / "config.json"
    original = file.read_bytes()
    try:
        file.write_text(json.dumps({**json.loads(original), key: data.draw(values)}))
        obeys(lambda: FOLDERS[name][1](stored / name), str(stored / name))
    finally:
        file.write_bytes(original)


HEADER = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "I64", "X", None, []])},
    optional={
        "shape": st.lists(st.integers(-3, 10) | st.sampled_from([2**32, 2**63, 10**400, 1e400, "1"]), max_size=3),
        "data_offsets": st.lists(st.integers(-8, 80) | st.just(2**63), min_size=1, max_size=3),
    },
)


@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), HEADER))
@example({"a": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]}})
@example({"a": {"dtype": "F32", "shape": [-1, -4], "data_offsets": [0, 16]}})
def test_no_header_of_arrays_leads_out_of_their_file(tmp_path_factory, header):
    path = tmp_path_factory.getbasetemp() / "arrays.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(40))
    for found in (obeys(lambda: arrays.read(path), str(path)) or {}).values():
        assert found.nbytes <= 40 and found.sum() == 0


@pytest.mark.parametrize("damage", ["beyond", "negative", "falling starts", "short"])
def test_a_graph_whose_edges_lead_nowhere_is_refused(tmp_path, damage):
    """Compiled code follows them without looking."""
    parts = {name: getattr(GRAPH, name).copy() for name in ("indptr", "indices", "data")}
    match damage:
        case "beyond":
            parts["indices"][3] = 30
        case "negative":
            parts["indices"][3] = -1
        case "falling starts":
            parts["indptr"][5] = parts["indptr"][6] + 1
        case "short":
            parts["data"] = parts["data"][:-1]
    knn.save(GRAPH, tmp_path)
    save_file(parts, tmp_path / "graph.safetensors")
    for read in (knn.load, lambda folder: knn.open_stored(folder).rows(0, 30)):
        with pytest.raises(ValueError, match="materialize it again"):
            read(tmp_path)


def table(folder):
    path = Store(folder).table("token_shards", "shard-00000")
    tables.write(pl.DataFrame({"a": range(100), "v": [[1.0, 2.0]] * 100}), path)
    return path


@given(st.data())
def test_damaged_tables_are_read_or_refused_when_scanned(tmp_path_factory, data):
    path = table(tmp_path_factory.getbasetemp() / "t")
    path.write_bytes(data.draw(mutated(path.read_bytes()) | st.binary(max_size=200)))
    obeys(lambda: tables.scan(path), str(path), error=StoreError)


def test_a_store_in_a_folder_whose_name_is_a_pattern_reads_its_own_tables(tmp_path):
    path = table(tmp_path / "[ab]*?")
    table(tmp_path / "a")
    assert tables.scan(path).collect().height == 100


@given(st.data())
def test_a_damaged_manifest_is_what_was_written_or_refused(tmp_path_factory, data):
    store = Store(tmp_path_factory.getbasetemp())
    path = store.manifest_path("pca_basis")
    MANIFEST.write(path)
    path.write_bytes(data.draw(mutated(path.read_bytes()) | st.binary(max_size=100)))
    assert obeys(lambda: store.manifest("pca_basis"), str(path), error=StoreError) in (None, MANIFEST)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"null", b"{}", b"\xff", b""])
def test_what_is_no_manifest_is_refused(tmp_path, content):
    store = Store(tmp_path)
    path = store.manifest_path("pca_basis")
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"pca_basis.*damaged or no manifest.*again"):
        store.manifest("pca_basis")


@given(NAMES)
def test_no_name_of_a_shard_or_an_asset_leads_out_of_the_store(tmp_path_factory, name):
    store = Store(tmp_path_factory.getbasetemp() / "store")
    for place in (store.path, store.table, store.manifest_path):
        for names in ((name,), ("token_shards", name), (name, "shard-00000")):
            found = obeys(functools.partial(place, *names), error=StoreError)
            assert found is None or store.root in found.resolve().parents


@pytest.mark.parametrize("url", PASSWORDS)
def test_a_password_in_the_stores_place_is_refused_and_not_repeated(monkeypatch, url):
    monkeypatch.setenv("SUSC_STORE", url)
    with pytest.raises(ValueError, match="SUSC_STORE .*…@.* holds a user or password") as refusal:
        experiment.store(ExperimentConfig("x"))
    assert "sesame" not in str(refusal.value)
    assert os.environ["SUSC_STORE"] == url
