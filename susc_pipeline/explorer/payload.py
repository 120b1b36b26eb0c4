"""Data of the site as scripts that hand a value to the page. What the values mean is in site.py.

A page opened from a file may neither fetch nor import modules; a `<script src>` it may load. Each file is one call,
`explorer.receive(name, value)`, whose value is JSON: text of a corpus is a string in it and nothing else. Numbers in
bulk are little-endian arrays in base64, a third of the size of digits and read without parsing.
"""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

MISSING = -32768
LARGEST = 32767
INTEGERS = (np.uint8, np.uint16, np.int32, np.uint32)
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def script(name: str, value: Any) -> str:
    """The call that hands the value to the page; ASCII, without a character that HTML would read as markup."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character, escape in ESCAPES.items():
        text = text.replace(character, escape)
    return f"explorer.receive({json.dumps(name)},{text});\n"


def write(folder: Path, name: str, value: Any) -> int:
    """Write the value as `<folder>/<name>.js`; its size in bytes."""
    path = folder / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = script(name, value).encode("ascii")
    path.write_bytes(content)
    return len(content)


def packed(values: Shaped[np.ndarray, "*shape"]) -> dict[str, Any]:
    """Integers, exactly, in the smallest type that holds them.

    Raises:
        ValueError: a number is beyond 32 bits.
    """
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    for kind in INTEGERS:
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return {"type": np.dtype(kind).name, "data": _base64(values.astype(kind))}
    raise ValueError(f"packed integers must fit 32 bits, got {low} to {high}; split the table")


def quantized(values: Float[np.ndarray, "rows *columns"]) -> dict[str, Any]:
    """Real numbers in 16 bits with one scale a column: the error is at most half of the largest size over 32767.

    Numbers that are not finite are missing ones.
    """
    finite = np.isfinite(values)
    known = np.where(finite, values, 0.0).astype(np.float64)
    scale = np.abs(known).max(axis=0, initial=0.0) / LARGEST
    steps = np.rint(np.divide(known, scale, out=np.zeros_like(known), where=scale > 0))
    digits = np.where(finite, steps, MISSING).astype(np.int16)
    return {"type": "int16", "data": _base64(digits), "scale": np.atleast_1d(scale).tolist()}


def floats(values: Float[np.ndarray, "*shape"]) -> dict[str, Any]:
    """Real numbers in 32 bits, for what is read once; not finite ones stay so."""
    return {"type": "float32", "data": _base64(values.astype(np.float32))}


def unpacked(value: dict[str, Any]) -> Int[np.ndarray, " values"] | Float[np.ndarray, " values"]:
    """What the page reads from `packed`, `floats` or, with its scale, `quantized`: flat, missing numbers as nan."""
    flat = np.frombuffer(base64.b64decode(value["data"]), np.dtype(value["type"]).newbyteorder("<"))
    if "scale" not in value:
        return flat.astype(np.float64 if value["type"] == "float32" else np.int64)
    scale = np.resize(np.asarray(value["scale"]), flat.shape)
    return np.where(flat == MISSING, np.nan, flat * scale)


def _base64(values: Shaped[np.ndarray, "*shape"]) -> str:
    little_endian = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(little_endian.tobytes()).decode("ascii")
