"""Stored tables: Parquet files, written whole and read without trust. Their columns are in susc_pipeline/schema/."""

from pathlib import Path

import polars as pl

from resources import files
from resources.files import StoreError


def write(frame: pl.DataFrame, path: Path) -> None:
    """Write a table so that the file is either the old one or the whole new one."""
    with files.replacing(path) as temporary:
        frame.write_parquet(temporary, compression="zstd")


def scan(path: Path) -> pl.LazyFrame:
    """A stored table, not yet read.

    Raises:
        StoreError: it is missing, cut short, or no Parquet.
    """
    remedy = f"materialize {path.parent.name if path.parent.name != path.stem else path.stem} again"
    if not path.is_file():
        raise StoreError(f"{path} is missing; {remedy}")
    try:
        frame = pl.scan_parquet(path, glob=False)  # or a folder with brackets in its name would be a pattern
        frame.collect_schema()
    # What the reader did not foresee is a panic of Rust, which is no Exception to Python.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise StoreError(f"{path} is cut short or no Parquet file ({str(error)[:120]}); {remedy}") from error
    return frame
