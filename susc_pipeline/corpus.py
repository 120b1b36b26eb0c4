"""Documents of a corpus, read from the Python standard library, local files or a Hub dataset.

Tokens, contexts and shards are made in tokens.py; which corpus an experiment reads is said in its TOML.
Corpus text is data from strangers: it is decoded strictly and never interpreted.
"""

import hashlib
import json
import os
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import polars as pl

from susc_pipeline import lines, parquet_texts, schema
from susc_pipeline.messages import require

TEXT_SUFFIXES = (".txt", ".md", ".py")
RECORD_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
LEFT_OUT_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
HELD_OUT_ONE_IN = 10
MAX_DOCUMENT_BYTES = lines.MAX_LINE_BYTES


@dataclass(frozen=True)
class CorpusSettings:
    """Which text."""

    kind: str = "python_standard_library"
    """`python_standard_library`, `files` or `hub`."""
    path: str = ""
    """For `files`: a file or folder. For `hub`: the dataset's name."""
    text_column: str = "text"
    """Field of a record that holds the text (JSON lines, Parquet, Hub)."""
    revision: str = "main"
    """Hub revision of the data set."""
    split: str = "train"
    """Hub split."""
    max_documents: int = 100_000
    """Documents read from a Hub stream, at most."""
    max_document_characters: int = 0
    """For `files`: a longer text is split at blank lines into documents of at most so many characters; 0 splits none."""
    license: str = ""
    """Licence of the text, as SPDX names it, such as `CC-BY-4.0`; empty where it is not stated. Exports state it."""

    def __post_init__(self) -> None:
        """Check the values."""
        kinds = ("python_standard_library", "files", "hub")
        require(self.kind in kinds, "corpus.kind", self.kind, f"one of {kinds}")
        needs_path = self.kind != "python_standard_library"
        require(bool(self.path) or not needs_path, "corpus.path", self.path, f"given for corpus.kind {self.kind!r}")
        require(self.max_documents >= 1, "corpus.max_documents", self.max_documents, "at least 1")
        longest = self.max_document_characters
        is_name = re.fullmatch(r"[A-Za-z0-9.+-]{0,60}", self.license) is not None
        require(is_name, "corpus.license", self.license, "a licence as SPDX names it: letters, digits, dots and dashes")
        require(longest >= 0, "corpus.max_document_characters", longest, "zero (no text is split) or more")


class Document(NamedTuple):
    """One text with the name it is known by: a path relative to the corpus, with a record number where it has one."""

    document_id: str
    text: str


def is_held_out(document_id: str) -> bool:
    """Whether a document is kept from training the embedded model: one in ten, by a hash of its name.

    The hash depends on nothing but the name, so the split is the same on every interpreter and machine.
    """
    return int.from_bytes(hashlib.sha256(document_id.encode()).digest()[:8], "big") % HELD_OUT_ONE_IN == 0


def python_standard_library(folder: Path) -> Iterator[Document]:
    """Sources of the standard library under `folder`, in order of path; tests and site-packages are left out."""
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if LEFT_OUT_FOLDERS.isdisjoint(relative.parts):
            try:
                with tokenize.open(path) as source:  # honours a file's own encoding declaration, PEP 263
                    text = source.read()
            except (SyntaxError, ValueError) as error:
                raise ValueError(f"{path} is no Python source ({error}); repair the standard library") from error
            if text.strip():
                yield Document(relative.as_posix(), text)


def local_files(location: Path, *, text_column: str = "text", max_document_characters: int = 0) -> Iterator[Document]:
    """Documents of a file, or of every readable file under a folder, in order of path.

    A `.txt`, `.md` or `.py` file is one document; each record of `.jsonl`, `.jsonl.gz`, `.jsonl.zst` and each row of
    `.parquet` is one, its text under `text_column`. Longer ones than `max_document_characters` are split, unless it is 0.

    Raises:
        ValueError: nothing readable there, a file that is empty, too large, damaged or not UTF-8 text, or a record
            without the column.
    """
    if not location.exists():
        raise ValueError(f"corpus {location} does not exist; give a file or a folder in corpus.path")
    root = location if location.is_dir() else location.parent
    paths = [path for path in _files_under(location) if _suffix(path) is not None]
    if not paths:
        readable = ", ".join((*TEXT_SUFFIXES, *RECORD_SUFFIXES, ".parquet"))
        raise ValueError(f"no corpus file under {location}; readable are {readable}")
    for path in paths:
        try:
            for document in _read_file(path, _name(path, root), text_column):
                yield from split(document, max_document_characters)
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}); correct that or leave it out") from error


def split(document: Document, max_characters: int) -> Iterator[Document]:
    """The document in pieces of at most so many characters, or as it is where it has no more or `max_characters` is 0.

    A piece ends at its last blank line, else at its last end of a line, else where it is full. The pieces hold the whole text;
    each is named after the document, with its number.
    """
    name, text = document
    if not max_characters or len(text) <= max_characters:
        yield document
        return
    start, number = 0, 0
    while start < len(text):
        end = min(start + max_characters, len(text))
        if end < len(text):
            breaks = (text.rfind(mark, start, end) + len(mark) for mark in ("\n\n", "\n"))
            end = next((place for place in breaks if place > start + len("\n\n")), end)
        yield Document(f"{name}#{number:09d}", text[start:end])
        start, number = end, number + 1


def fingerprint(location: Path) -> str:
    """A short digest of the names, sizes and times of the files below `location`: it changes when a file does.

    Nothing is read, so that it may be asked for often; what does not exist has the digest of nothing.
    """
    digest = hashlib.sha256()
    for path in _files_under(location):
        found = path.stat()
        digest.update(os.fsencode(path.relative_to(location)) + f"\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:12]


def table(documents: Iterable[Document]) -> pl.DataFrame:
    """Name, length and SHA-256 of each document, in order of name, as schema.DOCUMENTS."""
    rows = [(d.document_id, len(d.text), hashlib.sha256(d.text.encode()).hexdigest()) for d in documents]
    return pl.DataFrame(sorted(rows), schema=schema.DOCUMENTS, orient="row")


def hub_dataset(name: str, *, revision: str, split: str, text_column: str, max_documents: int) -> Iterator[Document]:
    """The first `max_documents` documents of a Hub dataset, streamed; nothing is stored beside the stream.

    Raises:
        ValueError: the optional package `datasets` is missing, or the dataset has no such column.
    """
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]  # optional, and slow to import
    except ImportError as error:
        raise ValueError(
            f"corpus {name!r} is a Hub dataset, which needs the package datasets; pip install 'susc-pipeline[hub]'"
        ) from error
    rows = load_dataset(name, revision=revision, split=split, streaming=True)
    for number, row in enumerate(rows.take(max_documents)):
        yield Document(f"{name}#{number:09d}", _text_of(row, text_column, f"{name}#{number}"))


def _files_under(location: Path) -> list[Path]:
    return [location] if location.is_file() else sorted(path for path in location.rglob("*") if path.is_file())


def _name(path: Path, root: Path) -> str:
    name = path.relative_to(root).as_posix()
    if not is_text(name):
        raise ValueError(f"a file below {root} has the name {name!r}, which is not UTF-8; rename it or leave it out")
    return name


def is_text(text: str) -> bool:
    """Whether it has no half of a surrogate pair, which JSON and names of files may hold but no text can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _suffix(path: Path) -> str | None:
    known = (*RECORD_SUFFIXES, ".parquet", *TEXT_SUFFIXES)
    return next((suffix for suffix in known if path.name.endswith(suffix)), None)


def _read_file(path: Path, name: str, text_column: str) -> Iterator[Document]:
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"corpus file {path} is empty; remove it or leave it out of corpus.path")
    match _suffix(path):
        case ".parquet":
            yield from _read_parquet(path, name, text_column)
        case suffix if suffix in RECORD_SUFFIXES:
            yield from _read_records(path, name, text_column)
        case _ if size > MAX_DOCUMENT_BYTES:
            raise ValueError(f"{path} is one document of {size} bytes, more than {MAX_DOCUMENT_BYTES}; split it")
        case _:
            yield Document(name, _decode(path.read_bytes(), path))


def _read_parquet(path: Path, name: str, text_column: str) -> Iterator[Document]:
    n_bytes, limit = 0, lines.expansion_limit(path)
    for number, text in enumerate(parquet_texts.of(path, text_column)):
        found = _text_of({text_column: text}, text_column, f"{path} row {number}")
        n_bytes += len(found)
        if n_bytes > limit:
            raise ValueError(f"{path} unpacks to more than {limit} bytes, as no text does; leave it out")
        yield Document(f"{name}#{number:09d}", found)


def _read_records(path: Path, name: str, text_column: str) -> Iterator[Document]:
    for number, line in enumerate(lines.of(path)):
        where = f"{path} line {number + 1}"
        try:
            record = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is not JSON ({error}); each line must be one JSON object") from error
        yield Document(f"{name}#{number:09d}", _text_of(record, text_column, where))


def _text_of(record: object, text_column: str, where: str) -> str:
    text = record.get(text_column) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"{where} has no text under {text_column!r}; set corpus.text_column to the field of the text")
    if len(text) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"{where} has {len(text)} characters, more than {MAX_DOCUMENT_BYTES}; split it")
    if not is_text(text):
        raise ValueError(f"{where} holds half of a surrogate pair, which is no character; remove it")
    return text


def _decode(content: bytes, path: Path) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from error
    if "\x00" in text:
        raise ValueError(f"{path} holds null bytes, so it is binary; leave it out of corpus.path")
    return text
