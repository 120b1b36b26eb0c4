"""Readers of every format give the same documents; what cannot be read is named."""

import gzip
import hashlib
import json
import shutil
import sysconfig
from pathlib import Path

import polars as pl
import pytest
import zstandard

from susc_pipeline import corpus

TEXTS = ["first text", "second «text» 🙂", "<script>alert(1)</script>"]


def lines(texts=TEXTS, column="text"):
    return "".join(json.dumps({column: text}) + "\n" for text in texts).encode()


def test_every_record_format_gives_the_same_texts(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines())
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines()))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(lines()))
    pl.DataFrame({"text": TEXTS}).write_parquet(tmp_path / "d.parquet")
    found = list(corpus.local_files(tmp_path))
    assert [document.text for document in found] == 4 * TEXTS
    assert len({document.document_id for document in found}) == 12


def test_text_files_are_read_in_order_of_path(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, text in (("b.txt", "B"), ("a.txt", "A"), ("sub/c.txt", "C"), ("ignored.png", "x")):
        (tmp_path / name).write_text(text)
    assert list(corpus.local_files(tmp_path)) == [("a.txt", "A"), ("b.txt", "B"), ("sub/c.txt", "C")]
    assert list(corpus.local_files(tmp_path / "a.txt")) == [("a.txt", "A")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "is empty; remove it"),
        ("a.txt", b"\xff\xfe\x00", "is not UTF-8 text"),
        ("a.txt", b"ELF\x00\x00", "holds null bytes"),
        ("a.jsonl", b'{"text": "x"}\n{"text"', "line 2 is not JSON"),
        ("a.jsonl", b'{"body": "x"}\n', "line 1 has no text under 'text'; set corpus.text_column"),
        ("a.jsonl", b"[1]\n", "line 1 has no text"),
        ("a.png", b"x", "no corpus file under"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(corpus.local_files(tmp_path))


def test_missing_places_and_columns_are_named(tmp_path):
    with pytest.raises(ValueError, match="does not exist; give a file or a folder in corpus.path"):
        list(corpus.local_files(tmp_path / "nowhere"))
    pl.DataFrame({"body": TEXTS}).write_parquet(tmp_path / "d.parquet")
    with pytest.raises(ValueError, match="no column 'text', only \\['body'\\]; set corpus.text_column"):
        list(corpus.local_files(tmp_path))
    assert len(list(corpus.local_files(tmp_path, text_column="body"))) == 3


def test_the_standard_library_leaves_out_tests_and_is_held_out_by_document():
    found = list(corpus.python_standard_library(Path(sysconfig.get_path("stdlib"))))
    assert len(found) > 400 and not any("site-packages" in d.document_id or "/test/" in d.document_id for d in found)
    share = sum(corpus.is_held_out(d.document_id) for d in found) / len(found)
    assert 0.05 < share < 0.15 and corpus.is_held_out("argparse.py") == corpus.is_held_out("argparse.py")


def test_the_fingerprint_changes_with_any_file_and_with_nothing_else(tmp_path):
    folder = tmp_path / "corpus"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    first = corpus.fingerprint(folder)
    assert corpus.fingerprint(folder) == first
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copy2)
    assert corpus.fingerprint(tmp_path / "copy") == first  # wherever it lies
    (folder / "deep" / "b.txt").write_text("two")
    second = corpus.fingerprint(folder)
    (folder / "a.txt").write_text("ONE")
    third = corpus.fingerprint(folder)
    (folder / "deep" / "b.txt").rename(folder / "deep" / "c.txt")
    assert len({first, second, third, corpus.fingerprint(folder)}) == 4
    assert corpus.fingerprint(tmp_path / "nowhere") == corpus.fingerprint(tmp_path / "copy" / "deep")


def test_the_table_of_documents_depends_on_their_texts_alone():
    documents = [corpus.Document("b", "two"), corpus.Document("a", "é")]
    found = corpus.table(documents)
    assert found.equals(corpus.table(reversed(documents)))
    assert found["document_id"].to_list() == ["a", "b"] and found["n_characters"].to_list() == [1, 3]
    assert found["sha256"][0] == hashlib.sha256("é".encode()).hexdigest()
