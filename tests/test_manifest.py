"""A manifest tells whether what it names is as it was written, and whether it is so itself."""

import json

import pytest

from resources import manifest
from resources.files import StoreError
from resources.manifest import Manifest


def written(tmp_path):
    """A folder of two files with its manifest, and the manifest's path."""
    folder = tmp_path / "basis"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "arrays").write_bytes(bytes(range(256)))
    found = Manifest("basis", None, "1-ab", "cd", {"part/shard-00000": "ef"}, manifest.record(folder, "basis"), None)
    path = tmp_path / "basis.manifest.json"
    found.write(path)
    return found, path


def damages(found, path, thorough):
    return [(d.path.name, d.what) for d in manifest.damages(found, path.parent, thorough=thorough)]


def test_a_manifest_comes_back_as_it_was(tmp_path):
    found, path = written(tmp_path)
    assert manifest.read(path) == found and not damages(found, path, True)
    assert manifest.read(tmp_path / "other.manifest.json") is None


def test_every_flipped_bit_of_a_manifest_is_found(tmp_path):
    _, path = written(tmp_path)
    before = path.read_bytes()
    for place in range(len(before)):
        for bit in range(8):
            changed = bytearray(before)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(StoreError, match="damaged or no manifest|not as it was written"):
                manifest.read(path)


def test_a_file_outside_the_folder_is_refused_though_the_seal_is_right(tmp_path):
    _, path = written(tmp_path)
    for name in ("../secret", "/etc/passwd"):
        Manifest("a", None, "", "", {}, {name: manifest.FileRecord(1, "0")}, None).write(path)
        with pytest.raises(StoreError, match="not as it was written"):
            manifest.read(path)


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"seal": 1, "files": 3}', "[" * 100_000, "\xff"])
def test_what_is_no_manifest_is_named(tmp_path, text):
    path = tmp_path / "a.manifest.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreError, match="a.manifest.json is damaged or no manifest"):
        manifest.read(path)


def test_sizes_show_what_was_cut_short_and_only_content_what_was_flipped(tmp_path):
    found, path = written(tmp_path)
    arrays = tmp_path / "basis" / "arrays"
    arrays.write_bytes(bytes(256))
    assert not damages(found, path, False)
    assert damages(found, path, True) == [("arrays", "has other content than was written")]
    arrays.write_bytes(bytes(255))
    assert damages(found, path, False) == [("arrays", "has 255 bytes where 256 were written")]
    arrays.unlink()
    assert damages(found, path, False) == [("arrays", "is missing")]
    arrays.mkdir()
    assert damages(found, path, False) == [("arrays", "is no file")]


def test_the_checksum_of_the_whole_sees_names_and_contents_and_no_times(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    whole = lambda: Manifest("f", None, "", "", {}, manifest.record(folder, "f"), None).sha256  # noqa: E731
    (folder / "a").write_text("1")
    seen = {whole()}
    (folder / "a").touch()
    assert whole() in seen
    (folder / "b").write_text("1")
    seen.add(whole())
    (folder / "b").rename(folder / "c")
    seen.add(whole())
    (folder / "c").write_text("2")
    assert len(seen | {whole()}) == 4


def test_a_manifest_is_plain_json_that_says_what_it_was_made_from(tmp_path):
    found, path = written(tmp_path)
    content = json.loads(path.read_text())
    assert content["inputs"] == found.inputs and content["files"]["basis/config.json"][0] == 2
