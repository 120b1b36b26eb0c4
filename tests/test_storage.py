"""Artifacts are whole or not there; damaged, foreign and busy ones are named with a remedy."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from resources import files, locks, tables
from resources.files import StoreError
from resources.storage import Store
from susc_pipeline.clustering import knn

CHECKOUT = Path(__file__).resolve().parent.parent


def test_tables_come_back_as_they_were(tmp_path):
    frame = pl.DataFrame(
        {"a": [1, 2], "v": [[1.0, 2.0], [3.0, 4.0]]}, schema={"a": pl.Int32, "v": pl.Array(pl.Float16, 2)}
    )
    path = Store(tmp_path).table("asset", "shard-00001")
    tables.write(frame, path)
    assert tables.scan(path).collect().equals(frame)
    assert [p.name for p in path.parent.iterdir()] == ["shard-00001.parquet"]


def test_graphs_come_back_to_the_last_bit(tmp_path):
    graph = sparse.random_array((30, 30), density=0.2, rng=np.random.default_rng(0), dtype=np.float32).tocsr()
    with files.replacing(tmp_path / "graph") as temporary:
        knn.save(graph, temporary)
    back = knn.load(tmp_path / "graph")
    assert (back != graph).nnz == 0 and back.shape == graph.shape


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "t.parquet"
    tables.write(pl.DataFrame({"a": [1]}), path)
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert pl.read_parquet(path)["a"].to_list() == [1] and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), pl.exceptions.ComputeError("No space left (os error 28)")],
)
def test_a_full_disk_is_named_whichever_library_says_so_and_changes_nothing(tmp_path, error):
    path = tmp_path / "t.parquet"
    tables.write(pl.DataFrame({"a": [1]}), path)
    with pytest.raises(StoreError, match="no space left.*nothing was changed"), files.replacing(path):
        raise error
    assert pl.read_parquet(path)["a"].to_list() == [1]


def test_a_file_that_must_not_be_written_is_named(tmp_path):
    with pytest.raises(StoreError, match="cannot be written to.*SUSC_STORE"), files.replacing(tmp_path / "t"):
        raise OSError(errno.EROFS, "Read-only file system")


def test_another_error_of_a_writer_stays_what_it_is(tmp_path):
    with pytest.raises(KeyError), files.replacing(tmp_path / "t"):
        raise KeyError("x")


def test_a_killed_writer_leaves_the_old_file_readable(tmp_path):
    path = tmp_path / "t.parquet"
    tables.write(pl.DataFrame({"a": [1]}), path)
    code = (
        "import sys, time; from pathlib import Path; from resources import files\n"
        "with files.replacing(Path(sys.argv[1])) as t:\n"
        "    t.write_bytes(b'half'); print('ready', flush=True); time.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    (temporary,) = files.temporaries(tmp_path)
    assert not files.remove_if_left_over(temporary), "its writer is alive"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert pl.read_parquet(path)["a"].to_list() == [1]
    assert files.remove_if_left_over(temporary) and list(tmp_path.iterdir()) == [path]


def test_missing_truncated_and_foreign_tables_are_named_with_the_remedy(tmp_path):
    path = Store(tmp_path).table("token_shards", "shard-00000")
    with pytest.raises(StoreError, match="is missing; materialize token_shards again"):
        tables.scan(path)
    tables.write(pl.DataFrame({"a": range(1000)}), path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(StoreError, match="cut short or no Parquet.*materialize token_shards again"):
        tables.scan(path)
    path.write_text("hello")
    with pytest.raises(StoreError, match="cut short or no Parquet"):
        tables.scan(path)


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


def test_who_holds_a_shard_is_named_also_while_it_has_not_signed_yet_and_not_when_it_is_gone(tmp_path):
    path = tmp_path / "a.lock"
    with locks.held(path):
        assert path.read_text() == f"process {os.getpid()} of {socket.gethostname()}\n"
    assert not path.read_text(), "who comes next would be taken for us until it signs"
    with path.open("a") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)

        def sign():
            for part in ("process 4711", " of elsewhere\n"):
                time.sleep(0.1)
                holder.write(part)
                holder.flush()

        signing = threading.Thread(target=sign)
        signing.start()
        with pytest.raises(locks.Busy, match=r"^process 4711 of elsewhere$"), locks.held(path):
            pass
        signing.join()


def test_who_never_signs_is_called_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    with (
        locks.held(tmp_path / "a.lock", shared=True),
        pytest.raises(locks.Busy, match="another process"),
        locks.held(tmp_path / "a.lock"),
    ):
        pass


def test_what_tells_of_old_content_goes_before_new_content_takes_its_name(tmp_path):
    path, about = tmp_path / "f", tmp_path / "about"
    path.write_text("old")
    about.write_text("it is old")
    with pytest.raises(RuntimeError), files.replacing(path, described_by=about):
        raise RuntimeError
    assert about.exists()
    with files.replacing(path, described_by=about) as temporary:
        temporary.write_text("new")
        assert about.exists()
    assert path.read_text() == "new" and not about.exists()


def test_a_temporary_folder_that_was_half_removed_is_still_removed(tmp_path):
    (empty := tmp_path / ".a.x.tmp").mkdir()
    (half := tmp_path / ".b.x.tmp").mkdir()
    (half / files.HELD).touch()
    assert set(files.temporaries(tmp_path)) == {empty, half}
    assert files.remove_if_left_over(empty) and files.remove_if_left_over(half)
    assert not list(tmp_path.iterdir())


def test_nobody_materializes_while_the_store_is_cleaned_nor_the_other_way_round(tmp_path):
    store = Store(tmp_path)
    with store.lock_all(), pytest.raises(StoreError, match="being cleaned .process"), store.lock("a"):
        pass
    with store.lock("a"), store.lock("b"), pytest.raises(StoreError, match="in use"), store.lock_all():
        pass
    with store.lock_all():
        pass


def test_damaged_traces_are_named_and_count_as_not_there(tmp_path):
    traces = Store(tmp_path).components("sgld_samples", "shard-00000", "d")
    frame = pl.DataFrame({"a": range(100)})
    for component in ("L0H0", "L0H1"):
        traces.write(component, frame)
    assert traces.components() == ["L0H0", "L0H1"] and traces.read("L0H0").equals(frame)
    content = bytearray(traces.file("L0H0").read_bytes())
    content[len(content) // 2] ^= 1
    traces.file("L0H0").write_bytes(content)
    assert [traces.damage(name) for name in ("L0H1", "L9H9")] == [None, "is missing"]
    with pytest.raises(StoreError, match="L0H0.parquet has other content.*materialize sgld_samples shard-00000 again"):
        traces.read("L0H0")
