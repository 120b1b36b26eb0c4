"""Texts of a column of a Parquet file from a stranger, read in a process of its own whose memory is limited.

A file of five hundred bytes can ask the reader for more memory than there is, which ends the process that reads it and
cannot be caught. This module is both sides: `of` starts the file itself as a program, which writes each text behind its
length. What the texts mean is the affair of corpus.py.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl

ROWS_AT_ONCE = 1 << 16
MAX_MEMORY_BYTES = 1 << 31  # of data of the reading process
NO_TEXT, REFUSAL, END = -1, -2, -3  # in place of a length
LENGTH_BYTES = 8


def of(path: Path, column: str) -> Iterator[str | None]:
    """The texts of the column, row by row; nothing in place of what is no text.

    Raises:
        ValueError: no Parquet file, cut short, without such a column, or in need of too much memory.
    """
    # -P: else modules beside this file would hide those of the standard library.
    command = [sys.executable, "-P", __file__, str(path), column]
    environment = os.environ | {"POLARS_MAX_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as reader:
        assert reader.stdout is not None
        while header := reader.stdout.read(LENGTH_BYTES):
            length = int.from_bytes(header, "little", signed=True)
            if length == END:
                return
            if length == REFUSAL:
                raise ValueError(reader.stdout.read().decode("utf-8"))
            yield None if length == NO_TEXT else reader.stdout.read(length).decode("utf-8")
    raise ValueError(f"{path} is damaged, or needs more than {MAX_MEMORY_BYTES} bytes of memory; fetch it again")


def _write(path: Path, column: str) -> None:
    """The other side: all texts of the column to standard output."""
    first, out = 0, sys.stdout.buffer
    while len(texts := _some(path, column, first)):
        for number in range(len(texts)):  # iterating would make Python's copies of all of them at once
            text = texts[number]
            content = text.encode() if isinstance(text, str) else b""
            out.write(
                (len(content) if isinstance(text, str) else NO_TEXT).to_bytes(LENGTH_BYTES, "little", signed=True)
            )
            out.write(content)
        first += len(texts)
    out.write(END.to_bytes(LENGTH_BYTES, "little", signed=True))


def _some(path: Path, column: str, first: int) -> pl.Series:
    try:
        frame = pl.scan_parquet(path, glob=False)  # or a name with brackets would be a pattern
        columns = frame.collect_schema().names()
        if column in columns:
            return frame.select(pl.col(column)).slice(first, ROWS_AT_ONCE).collect()[column]
    # What the reader did not foresee is a panic of Rust, which is no Exception to Python.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, OSError) as error:
        raise ValueError(f"{path} is cut short or no Parquet file ({str(error)[:120]}); fetch it again") from error
    raise ValueError(f"{path} has no column {column!r}, only {columns[:20]}; set corpus.text_column")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        _write(Path(sys.argv[1]), sys.argv[2])
    except ValueError as error:
        sys.stdout.buffer.write(REFUSAL.to_bytes(LENGTH_BYTES, "little", signed=True) + str(error).encode())
