"""The warehouse of a store that was copied, moved or mounted elsewhere: its views read that store's tables or fail."""

import shutil

import duckdb
import polars as pl
import pytest

from resources import manifest, tables, warehouse
from resources.manifest import Manifest
from resources.storage import Store
from susc_pipeline import schema
from susc_pipeline.model import pretrained

MADE = {"language_model": [None], "token_shards": ["shard-00000", "shard-00001"], "clusters": [None]}
MADE |= {"cluster_members": [None]}
LOCATIONS = ["plain", "with space", "[x] 'y' *", '"', "{a,b}", "mü%20#", "a]b[c"]


def publish(store, asset, shard, path):
    recorded = manifest.record(path, path.name)
    store.publish(Manifest(asset, shard, "1-made", "made", {}, recorded, None))


def write(store, asset, frame, shard=None):
    path = store.table(asset, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    tables.write(frame, path)
    publish(store, asset, shard, path)


def write_clusters(store, n_clusters):
    clusters = pl.DataFrame({"cluster": range(n_clusters), "size": [1] * n_clusters})
    write(store, "clusters", clusters.cast({"cluster": pl.Int32}))


@pytest.fixture(scope="module")
def loaded(toy_folders):
    return pretrained.load(toy_folders[1])


@pytest.fixture
def original(tmp_path, toy_folders, loaded):
    """A store with two shards, three clusters and a member of each in either shard."""
    store = Store(tmp_path / "original" / "toy")
    store.root.mkdir(parents=True)
    shutil.copytree(toy_folders[1], store.path("language_model"))
    publish(store, "language_model", None, store.path("language_model"))
    for number, shard in enumerate(MADE["token_shards"]):
        row = {"context_id": [number], "document_id": ["d"], "start": [0], "token_ids": [[1, 2, 3]]}
        write(store, "token_shards", pl.DataFrame(row, schema=schema.CONTEXTS), shard)
    write_clusters(store, 3)
    members = [(cluster, rank, f"shard-0000{rank}", rank, 1) for cluster in range(3) for rank in range(2)]
    write(store, "cluster_members", pl.DataFrame(members, schema=schema.MEMBERS, orient="row"))
    warehouse.refresh(store, loaded, MADE)
    return store


def n_rows(folder, view="clusters"):
    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as connection:
        return connection.sql(f"select count(*) from {view}").fetchall()[0][0]


@pytest.mark.parametrize("name", LOCATIONS)
def test_the_views_of_a_copy_read_the_copy_beside_its_original_and_without_it(original, tmp_path, name):
    for decoy in ("x 'y' z", "a", "b", "abc"):  # what the names would match as patterns
        shutil.copytree(original.root, tmp_path / decoy)
    copy = shutil.copytree(original.root, tmp_path / name)
    write_clusters(Store(copy), 1)
    assert n_rows(copy) == 1 and n_rows(original.root) == 3
    shutil.rmtree(original.root)
    assert n_rows(copy) == 1 and n_rows(copy, "contexts") == 2 and n_rows(copy, "member_contexts") == 6


def test_a_store_that_cannot_be_written_to_is_read_and_left_as_it_is(original):
    for path in (original.root, *original.root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted(original.root.rglob("*"))
    assert n_rows(original.root, "member_contexts") == 6
    assert sorted(original.root.rglob("*")) == before
    for path in (original.root, *original.root.rglob("*")):
        path.chmod(0o755)


def test_views_are_read_by_a_relative_path_too(original, monkeypatch):
    for folder, path in ((original.root, "warehouse.duckdb"), (original.root.parent, "toy/warehouse.duckdb")):
        monkeypatch.chdir(folder)
        with duckdb.connect(path, read_only=True) as connection:
            assert connection.sql("select count(*) from member_contexts").fetchall() == [(6,)]


def test_a_view_that_cannot_know_its_store_fails_until_it_is_told(original):
    shutil.copy(original.warehouse(), original.root / "renamed.duckdb")
    for name in ("warehouse", "renamed"):
        with duckdb.connect() as connection:
            connection.execute(f"attach '{original.root}/{name}.duckdb' as attached (read_only)")
            with pytest.raises(duckdb.Error, match="set variable store"):
                connection.sql("select count(*) from attached.clusters").fetchall()
            for folder in (f"{original.root}", f"{original.root}/"):
                connection.execute("set variable store = ?", [folder])
                assert connection.sql("select count(*) from attached.clusters").fetchall() == [(3,)]


def test_of_two_warehouses_in_one_connection_neither_reads_the_tables_of_the_other(original, tmp_path):
    copy = shutil.copytree(original.root, tmp_path / "copy")
    with duckdb.connect(str(original.warehouse()), read_only=True) as connection:
        assert connection.sql("select count(*) from clusters").fetchall() == [(3,)]
        connection.execute(f"attach '{copy}/warehouse.duckdb' as attached (read_only)")
        with pytest.raises(duckdb.Error, match="two warehouses are attached"):
            connection.sql("select count(*) from attached.clusters").fetchall()


def test_a_warehouse_without_its_tables_says_which_are_missing(original, tmp_path):
    (tmp_path / "alone").mkdir()
    shutil.copy(original.warehouse(), tmp_path / "alone")
    with pytest.raises(duckdb.Error, match=r"alone/clusters\.parquet"):
        n_rows(tmp_path / "alone")


def test_a_moved_store_is_not_written_again_and_a_changed_one_is(original, loaded, tmp_path):
    moved = Store(shutil.move(original.root, tmp_path / "moved"))
    before = moved.warehouse().stat()
    warehouse.refresh(moved, loaded, MADE)
    assert moved.warehouse().stat() == before
    write_clusters(moved, 2)
    warehouse.refresh(moved, loaded, MADE)
    assert moved.warehouse().stat() != before and n_rows(moved.root) == 2
    with warehouse.connect(moved) as connection:
        assert connection.sql("select count(*) from clusters").fetchall() == [(2,)]
