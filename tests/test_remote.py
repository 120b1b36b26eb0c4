"""The shared store: content before manifests, nothing taken that is not as recorded, no credential shown."""

import pytest

from resources import files, manifest
from resources.files import StoreError
from resources.remote import Remote


@pytest.fixture
def remote(request):
    """A folder of fsspec's object store in memory, of this test alone."""
    return Remote(f"memory://bucket/{request.node.name}")


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def records(folder, *names):
    return {name: manifest.record(folder / name, name)[name] for name in names}


def test_what_was_published_is_fetched_as_it_was(remote, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    names = ["part/shard-00000.parquet", "explorer/data/a.js"]
    for name in names:
        write(here, name, f"content of {name}")
    remote.publish(here, names, "part/shard-00000.manifest.json", b"{}")
    remote.fetch(there, records(here, *names))
    assert [(there / name).read_text() for name in names] == [f"content of {name}" for name in names]
    assert not list(there.rglob("*.tmp"))


def test_a_manifest_is_there_only_when_all_that_it_names_is(remote, tmp_path, monkeypatch):
    write(tmp_path, "a.parquet", "a")
    uploaded = []
    monkeypatch.setattr(remote.filesystem, "put", lambda paths, places: uploaded.append(places) or 1 / 0)
    with pytest.raises(StoreError, match="ZeroDivisionError"):
        remote.publish(tmp_path, ["a.parquet"], "a.manifest.json", b"{}")
    assert uploaded and not remote.filesystem.exists(remote.place("a.manifest.json"))


def test_content_that_is_not_as_recorded_is_refused_and_nothing_is_taken(remote, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for name in ("a.parquet", "b.parquet"):
        write(here, name, name)
    expected = records(here, "a.parquet", "b.parquet")
    write(here, "b.parquet", "B.PARQUET")
    remote.upload(here, expected)
    with pytest.raises(StoreError, match=r"b\.parquet is not what its manifest says: .* materialize b again"):
        remote.fetch(there, expected)
    assert not list(there.rglob("*.parquet"))


def test_manifests_here_become_those_there(remote, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for name, text in (("a.manifest.json", "1"), ("part/b.manifest.json", "2")):
        remote.publish(here, [], name, text.encode())
    for name in ("part/gone.manifest.json", "gone.manifest.json", "part/b.manifest.json"):
        files.os.utime(write(there, name, "old"), (1, 1))
    kept = write(there, "part/b.parquet", "content")
    remote.pull_manifests(there)
    found = {path.relative_to(there).as_posix(): path.read_text() for path in there.rglob("*.manifest.json")}
    assert found == {"a.manifest.json": "1", "part/b.manifest.json": "2"} and kept.exists()
    remote.publish(here, [], "a.manifest.json", b"3")
    remote.pull_manifests(there)
    assert (there / "a.manifest.json").read_text() == "3"


def test_a_store_in_which_nothing_was_published_is_empty(remote, tmp_path):
    remote.pull_manifests(tmp_path)
    remote.pull_folder(tmp_path, "sgld_samples/shard-00000")
    assert not list(tmp_path.rglob("*.json"))


def test_an_unfinished_folder_is_gone_on_with_elsewhere(remote, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for name in ("L0H0.parquet", "L0H1.parquet"):
        write(here, f"sgld_samples/shard-00000/digest/{name}", name)
    remote.upload(here, [f"sgld_samples/shard-00000/digest/{name}" for name in ("L0H0.parquet", "L0H1.parquet")])
    mine = write(there, "sgld_samples/shard-00000/digest/L0H1.parquet", "mine")
    remote.pull_folder(there, "sgld_samples/shard-00000")
    assert mine.read_text() == "mine" and mine.with_name("L0H0.parquet").read_text() == "L0H0.parquet"


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/x", "sftp://me@host/x"])
def test_a_url_with_credentials_is_refused_without_showing_them(url):
    with pytest.raises(ValueError, match="must hold no user or password") as raised:
        Remote(url)
    assert "secret" not in str(raised.value)


def test_a_scheme_without_a_client_says_what_to_install(tmp_path):
    with pytest.raises(StoreError, match=r"nowhere://bucket/x needs a client .*pip install"):
        Remote("nowhere://bucket/x").pull_manifests(tmp_path)


def test_no_secret_of_the_environment_is_in_an_error(remote, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-hunter2")
    monkeypatch.setattr(remote.filesystem, "pipe_file", lambda *_: exec("raise OSError('signed with hunter2-hunter2')"))
    with pytest.raises(StoreError, match=r"OSError: signed with \*\*\*; check SUSC_STORE, the credentials") as raised:
        remote.publish(tmp_path, [], "a.manifest.json", b"")
    assert raised.value.__cause__ is None and raised.value.__suppress_context__
