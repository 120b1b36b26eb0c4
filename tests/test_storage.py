"""Artifacts are whole or not there; damaged, foreign and busy ones are named with a remedy."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from resources import storage
from resources.storage import Store, StoreError
from susc_pipeline.clustering import knn

CHECKOUT = Path(__file__).resolve().parent.parent


def test_tables_come_back_as_they_were(tmp_path):
    frame = pl.DataFrame(
        {"a": [1, 2], "v": [[1.0, 2.0], [3.0, 4.0]]}, schema={"a": pl.Int32, "v": pl.Array(pl.Float16, 2)}
    )
    path = Store(tmp_path).table("asset", "shard-00001")
    storage.write_table(frame, path)
    assert storage.scan_table(path).collect().equals(frame)
    assert [p.name for p in path.parent.iterdir()] == ["shard-00001.parquet"]


def test_graphs_come_back_to_the_last_bit(tmp_path):
    graph = sparse.random_array((30, 30), density=0.2, rng=np.random.default_rng(0), dtype=np.float32).tocsr()
    with storage.replacing(tmp_path / "graph") as temporary:
        knn.save(graph, temporary)
    back = knn.load(tmp_path / "graph")
    assert (back != graph).nnz == 0 and back.shape == graph.shape


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "t.parquet"
    storage.write_table(pl.DataFrame({"a": [1]}), path)
    with pytest.raises(RuntimeError), storage.replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert pl.read_parquet(path)["a"].to_list() == [1] and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named_and_changes_nothing(tmp_path):
    path = tmp_path / "t.parquet"
    storage.write_table(pl.DataFrame({"a": [1]}), path)
    with pytest.raises(StoreError, match="no space left.*nothing was changed"), storage.replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert pl.read_parquet(path)["a"].to_list() == [1]


def test_a_killed_writer_leaves_the_old_file_readable(tmp_path):
    path = tmp_path / "t.parquet"
    storage.write_table(pl.DataFrame({"a": [1]}), path)
    code = (
        "import sys, time; from pathlib import Path; from resources import storage\n"
        "with storage.replacing(Path(sys.argv[1])) as t:\n"
        "    t.write_bytes(b'half'); print('ready', flush=True); time.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert pl.read_parquet(path)["a"].to_list() == [1]


def test_missing_truncated_and_foreign_tables_are_named_with_the_remedy(tmp_path):
    path = Store(tmp_path).table("token_shards", "shard-00000")
    with pytest.raises(StoreError, match="is missing; materialize token_shards again"):
        storage.scan_table(path)
    storage.write_table(pl.DataFrame({"a": range(1000)}), path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(StoreError, match="cut short or no Parquet.*materialize token_shards again"):
        storage.scan_table(path)
    path.write_text("hello")
    with pytest.raises(StoreError, match="cut short or no Parquet"):
        storage.scan_table(path)


def test_a_second_run_of_the_same_shard_is_refused_while_the_first_goes_on(tmp_path):
    store = Store(tmp_path)
    with store.lock("sgld_samples", "shard-00000"):
        code = (
            "import sys; from pathlib import Path; from resources.storage import Store\n"
            "with Store(Path(sys.argv[1])).lock('sgld_samples', 'shard-00000'): pass"
        )
        environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
        second = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, env=environment)
        assert b"being materialized by another run" in second.stderr
        with store.lock("sgld_samples", "shard-00001"):
            pass
    with store.lock("sgld_samples", "shard-00000"):
        pass


def test_checksums_see_every_file_of_a_folder(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "a").write_text("1")
    before = storage.checksum(folder)
    time.sleep(0.01)
    os.utime(folder / "a")
    assert storage.checksum(folder) == before
    (folder / "b").write_text("1")
    assert storage.checksum(folder) != before
