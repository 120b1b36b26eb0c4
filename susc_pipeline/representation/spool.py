"""Rows of many shards in one file on disk, read back as a memory map. What is fitted to them is in auxiliary.py, ridge.py."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float


def spooled(parts: Iterable[Float[np.ndarray, "rows columns"]], folder: Path) -> np.memmap:
    """All rows of the parts, one part after another, as a read-only memory map; one part is in memory at a time.

    The file has no name: its space is given back when nothing refers to the map any more, also where the process is killed.
    Pages that are read are the system's cache, which it drops when memory is short.

    Args:
        parts: matrices of one type and equally many columns.
        folder: on a disk with room for all of them.

    Raises:
        ValueError: there is no row.
        OSError: the disk is full.
    """
    n_rows, last = 0, None
    with tempfile.TemporaryFile(dir=folder) as file:
        for last in parts:
            file.write(np.ascontiguousarray(last).data)
            n_rows += len(last)
        if last is None or n_rows == 0:
            raise ValueError("a spool needs at least 1 row, got 0; add shards or documents")
        file.flush()
        return np.memmap(file, last.dtype, "r", shape=(n_rows, last.shape[1]))
