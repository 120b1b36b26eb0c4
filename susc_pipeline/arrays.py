"""Arrays in a safetensors file that need not fit in memory: written piece by piece, read as a memory map.

The safetensors library holds all of a file's arrays in memory to write it. The format is a length, a JSON header and the
raw arrays, so that a map of the file serves. What the arrays mean is their owner's affair.
"""

import json
import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from susc_pipeline.messages import shown

# Names of the format for the types that are stored here; all are little-endian.
TYPES = {"I32": np.dtype("<i4"), "I64": np.dtype("<i8"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
ALIGNMENT = 8
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 1 << 20


def create(path: Path, shapes: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    """Arrays of these types and shapes, all zero, that are a new file: what is written to them is written to it."""
    names = {dtype: name for name, dtype in TYPES.items()}
    header, place = {}, 0
    # Wide types first: then every array begins at a multiple of its own width.
    for key, (dtype, shape) in sorted(shapes.items(), key=lambda item: (-np.dtype(item[1][0]).itemsize, item[0])):
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        header[key] = {"dtype": names[np.dtype(dtype)], "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as handle:
        handle.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        handle.flush()
        # A file with holes would kill the process by a signal where the disk is full: a map cannot raise an error.
        os.posix_fallocate(handle.fileno(), 0, LENGTH_BYTES + len(text) + place)
    return _mapped(path, mmap.ACCESS_WRITE)


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file as a read-only memory map: only what is looked at comes into memory.

    Raises:
        ValueError: no safetensors file, cut short, or with a type that is not stored here.
    """
    return _mapped(path, mmap.ACCESS_READ)


def _mapped(path: Path, access: int) -> dict[str, np.ndarray]:
    with path.open("r+b" if access == mmap.ACCESS_WRITE else "rb") as handle:
        length = int.from_bytes(handle.read(LENGTH_BYTES), "little")
        try:
            header = json.loads(handle.read(length if length <= MAX_HEADER_BYTES else 0).decode("utf-8"))
            parts = {key: _part(entry) for key, entry in header.items() if key != "__metadata__"}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path} is no safetensors file ({str(error)[:100]}); make it again") from error
        first, size = LENGTH_BYTES + length, handle.seek(0, 2)
        content = mmap.mmap(handle.fileno(), 0, access=access)
    for key, (dtype, shape, (start, stop)) in parts.items():
        is_whole = 0 <= start <= first + stop <= size and min(shape, default=0) >= 0
        if not is_whole or stop - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{path} is cut short or damaged at {shown(key)}; make it again")
    return {
        key: np.frombuffer(content, dtype, count=math.prod(shape), offset=first + start).reshape(shape)
        for key, (dtype, shape, (start, _)) in parts.items()
    }


def _part(entry: dict) -> tuple[np.dtype, tuple[int, ...], tuple[int, int]]:
    start, stop = map(int, entry["data_offsets"])
    return TYPES[entry["dtype"]], tuple(map(int, entry["shape"])), (start, stop)
