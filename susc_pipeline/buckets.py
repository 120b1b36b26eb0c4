"""Rows set aside on disk by bucket: written in any order, read back a bucket at a time. What they mean is their owner's affair.

What comes by shard or by token and is wanted by cluster or by block, and is more than memory may hold, goes this way.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped


class Buckets(NamedTuple):
    """A folder with a file of rows for each bucket that has any; `kind` is the structured type of a row."""

    folder: Path
    kind: np.dtype

    def add(self, bucket: Int[np.ndarray, " rows"], rows: Shaped[np.ndarray, " rows"]) -> None:
        """Append each row to its bucket; the order within a bucket is kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        order = np.argsort(bucket, kind="stable")
        numbers, starts = np.unique(bucket[order], return_index=True)
        for number, chosen in zip(numbers.tolist(), np.split(order, starts[1:]), strict=False):
            with self._file(number).open("ab") as handle:
                handle.write(rows[chosen].tobytes())

    def read(self, bucket: int, max_rows: int) -> Iterator[np.ndarray]:
        """The rows of a bucket, at most so many at a time."""
        path = self._file(bucket)
        if not path.is_file():
            return
        with path.open("rb") as handle:
            while len(rows := np.fromfile(handle, self.kind, max_rows)):
                yield rows

    def whole(self, bucket: int) -> np.ndarray:
        """All rows of a bucket."""
        return np.concatenate([np.zeros(0, self.kind), *self.read(bucket, -1)])

    def drop(self, bucket: int) -> None:
        """Give back the room of a bucket that is not wanted any more."""
        self._file(bucket).unlink(missing_ok=True)

    def _file(self, bucket: int) -> Path:
        return self.folder / f"{bucket:08d}"
