"""Corpus files from strangers: documents, or a ValueError that names the file and the remedy; in bounded memory and time."""

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from hostile import mutated, obeys
from susc_pipeline import corpus

RECORDS = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in ("plain", "«é» 🙂", "x" * 300))
PLACES = st.sampled_from(["a.txt", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
PROBE = """
import re, sys
from pathlib import Path
from susc_pipeline import corpus

def peak():  # of this process; what the resource module says is inherited from the parent
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

before = peak()
try:
    print(sum(1 for _ in corpus.local_files(Path(sys.argv[1]))), "documents")
except ValueError as error:
    print(error)
print(peak() - before)
"""


def parquet(frame):
    file = io.BytesIO()
    frame.write_parquet(file)
    return file.getvalue()


GOOD = {
    "a.txt": "plain «é» 🙂".encode(),
    "a.jsonl": RECORDS,
    "a.jsonl.gz": gzip.compress(RECORDS),
    "a.jsonl.zst": zstandard.compress(RECORDS),
    "a.parquet": parquet(pl.DataFrame({"text": ["plain", "«é» 🙂", "x" * 300]})),
}


def read(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    found = obeys(lambda: list(corpus.local_files(path)), str(path))
    for document in found or []:
        assert document.document_id.encode() and len(document.text.encode()) < 1 << 26
    if found is not None:
        assert corpus.table(found).height == len(found)
    return found


@given(st.data(), PLACES)
def test_damaged_files_are_read_or_refused(tmp_path_factory, data, name):
    read(tmp_path_factory.getbasetemp(), name, data.draw(mutated(GOOD[name])))


@given(PLACES, st.binary(max_size=200))
def test_files_of_other_kinds_are_read_or_refused(tmp_path_factory, name, content):
    read(tmp_path_factory.getbasetemp(), name, content)


@given(st.text(alphabet=st.characters(), max_size=50))
@example("\ud800")
@example("\0")
def test_any_text_comes_back_or_is_refused(tmp_path_factory, text):
    found = read(tmp_path_factory.getbasetemp(), "a.jsonl", json.dumps({"text": text}).encode())
    assert (found is None) == any("\ud800" <= character <= "\udfff" for character in text)
    assert found is None or found[0].text == text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "cp1252", "cp037"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz"])
def test_other_encodings_are_refused_and_not_guessed(tmp_path, name, encoding):
    content = json.dumps({"text": "naïve café"}, ensure_ascii=False).encode(encoding)
    assert read(tmp_path, name, gzip.compress(content) if name.endswith(".gz") else content) is None


ODD_RECORDS = [
    b"[" * 100_000,
    b'{"text": ' * 100_000,
    b'{"text": ' + b"9" * 5000 + b"}",
    b'{"text": NaN}',
    b"null",
    b'"text"',
]
ODD_RECORDS += [
    b"{}",
    b'{"text": "\\ud800"}',
    b'{"text": "\xff"}',
    b"\xef\xbb\xbf{}",
    b"",
    b'{"text": null, "text": [1]}',
]


@pytest.mark.parametrize("line", ODD_RECORDS)
def test_odd_records_are_named_by_their_line(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "first"}\n' + line + b"\n")
    with pytest.raises(ValueError, match="a.jsonl line 2 "):
        list(corpus.local_files(path))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_no_packed_file_that_was_cut_off_passes_for_a_whole_one(tmp_path, name):
    """What is lost may be the last line only, and the rest reads well."""
    lines = b"".join(json.dumps({"text": os.urandom(20).hex()}).encode() + b"\n" for _ in range(200))
    whole = gzip.compress(lines) if name.endswith("gz") else zstandard.compress(lines)
    assert len(read(tmp_path, name, whole + whole)) == 400  # parts, one after another, are one file
    for missing in (1, 4, 8, len(whole) // 2, len(whole) - 3):
        assert read(tmp_path, name, whole[:-missing]) is None


def test_names_that_are_no_text_are_refused_but_do_not_stop_the_fingerprint(tmp_path):
    (tmp_path / "é[1]*?.jsonl").write_bytes(RECORDS)
    (tmp_path / "a[1].parquet").write_bytes(GOOD["a.parquet"])
    assert len(list(corpus.local_files(tmp_path))) == 6
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_text("x")
    with pytest.raises(ValueError, match=r"the name '\\udcff.txt', which is not UTF-8; rename it"):
        list(corpus.local_files(tmp_path))
    assert corpus.fingerprint(tmp_path)


def test_what_is_no_file_is_passed_over(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    (tmp_path / "up").symlink_to(tmp_path)
    assert [document.document_id for document in corpus.local_files(tmp_path)] == ["a.txt"]


ZEROS = bytes(1 << 24)
BOMBS = {
    "zeros.jsonl.gz": lambda: gzip.compress(ZEROS) * 256,
    "zeros.jsonl.zst": lambda: zstandard.compress(ZEROS) * 256,
    "lines.jsonl.gz": lambda: gzip.compress(b'{"text":"a"}\n' * 1_000_000) * 10,
    "line.jsonl": lambda: b'{"text": "' + 100_000_000 * b"x",
    "line.txt": lambda: 100_000_000 * b"x",
    "window.jsonl.zst": lambda: b"\x28\xb5\x2f\xfd\x00\xa0" + bytes(1000),  # asks for a window of a gigabyte
    "objects.jsonl": lambda: b"[" + b"{}," * 5_500_000 + b"{}]",
    "repeated.parquet": lambda: parquet(pl.select(text=pl.lit("x" * 1_000_000).repeat_by(5000).explode())),
}  # of at most some megabytes in which gigabytes hide, or with a line that is far too long


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_bounded_memory(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(BOMBS[name]())
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    message, mebibytes = done.stdout.strip().rsplit("\n", 1)
    assert str(path) in message and int(mebibytes) < 600
