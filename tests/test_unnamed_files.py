"""`susc-pipeline gc` shows what no manifest names, removes it only when told to, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from assets import cli
from resources import files, inventory, manifest, tables, unnamed_files
from resources.manifest import Manifest
from resources.storage import Store

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store with one finished table, an unfinished shard of traces, and notes."""
    monkeypatch.setenv("SUSC_STORE", str(tmp_path / "data"))
    (tmp_path / "toy.toml").write_text('name = "toy"\n')
    store = Store(tmp_path / "data" / "toy")
    path = store.table("part", "shard-00000")
    tables.write(pl.DataFrame({"a": [1]}), path)
    found = manifest.record(path, path.name)
    Manifest("part", "shard-00000", "1", "a", {}, found, 1).write(store.manifest_path("part", "shard-00000"))
    store.components("sgld_samples", "shard-00000", "digest").write("L0H0", pl.DataFrame({"a": [1]}))
    store.note_seconds({"part": 1.0})
    with store.lock("part", "shard-00000"):
        pass
    return store


def clean(store, *arguments):
    return cli.main(["gc", "--experiment", str(store.root.parent.parent / "toy.toml"), *arguments])


def everything(store):
    return {path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file()}


def test_what_is_finished_begun_or_noted_is_no_garbage(store, capsys):
    before = everything(store)
    assert clean(store, "--yes") == 0 and "nothing to remove" in capsys.readouterr().out
    assert everything(store) == before


def test_what_no_manifest_names_is_shown_with_its_size_and_removed_only_when_told_to(store, capsys):
    before = everything(store)
    (store.root / "part" / "shard-00001.parquet").write_bytes(b"x" * 1234)
    traces = store.components("sgld_samples", "shard-00000", "digest")
    traces.file("L0H1").write_bytes(b"without a record")
    (half := store.root / "old" / ".t.parquet.x.tmp").mkdir(parents=True)
    (half / "t.parquet").write_bytes(b"y" * 99)
    for removed in (False, True):
        assert clean(store, *["--yes"] * removed) == 0
        shown = capsys.readouterr().out
        assert "1,234 bytes  part/shard-00001.parquet" in shown and "99 bytes  old/.t.parquet.x.tmp" in shown
        assert "sgld_samples/shard-00000/digest/L0H1.parquet" in shown and "1,349 bytes in 3 files" in shown
        assert (everything(store) == before) == removed
    assert not (store.root / "old").exists(), "a folder that it left empty"


def test_nothing_is_removed_through_a_link(store, tmp_path, capsys):
    (outside := tmp_path / "outside").mkdir()
    (outside / "thesis.tex").write_text("years")
    (store.root / "elsewhere").symlink_to(outside)
    (store.root / "one").symlink_to(outside / "thesis.tex")
    assert clean(store, "--yes") == 0
    assert (outside / "thesis.tex").read_text() == "years"
    assert (store.root / "elsewhere").is_symlink() and not (store.root / "one").is_symlink()
    with pytest.raises(files.StoreError, match="reached through a link"):
        unnamed_files.remove(store, [store.root / "elsewhere" / "thesis.tex"])
    assert (outside / "thesis.tex").exists()


def test_nothing_is_removed_while_something_is_materialized(store, capsys):
    path = store.root / "stray"
    path.write_text("x")
    with store.lock("part", "shard-00007"):
        assert clean(store, "--yes") == 1 and "is in use" in capsys.readouterr().err
    assert path.exists()


def test_what_a_living_writer_has_begun_is_no_garbage(store):
    with files.replacing(store.root / "t") as temporary:
        temporary.write_text("x")
        assert not unnamed_files.unnamed(store)


def test_a_folder_that_is_no_store_is_left_alone_and_so_is_one_whose_manifest_is_damaged(store, capsys):
    path = store.manifest_path("part", "shard-00000")
    path.write_text(path.read_text().replace('"1"', '"2"'))
    assert clean(store, "--yes") == 1 and "cannot be told from what nobody needs" in capsys.readouterr().err
    path.unlink()
    assert clean(store, "--yes") == 1 and "it is no store" in capsys.readouterr().err
    assert store.table("part", "shard-00000").exists()


def test_an_inventory_of_a_store_knows_every_file_once(store):
    found = inventory.of(store)
    named = {path.parent / name for path, entry in found.manifests.items() for name in entry.files}
    assert named == {store.table("part", "shard-00000")} and not found.unnamed and not found.left_over


@pytest.mark.slow
def test_the_command_hands_over_to_the_checkout_from_any_directory(store, tmp_path):
    def command(*arguments):
        environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
        program = [sys.executable, "-m", "susc_pipeline", *arguments]
        return subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    done = command("gc", "--experiment", str(tmp_path / "toy.toml"))
    assert done.returncode == 0 and "nothing to remove" in done.stdout, done.stderr
    assert command("gc", "--experiment", "nowhere").returncode == 2
    unknown = command("frobnicate")
    assert unknown.returncode == 2 and "susc-pipeline --help" in unknown.stderr and not unknown.stdout
