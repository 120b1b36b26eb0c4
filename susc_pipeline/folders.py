"""Folders of config.json and safetensors, as which bases, models and graphs are stored, read without trust in them.

What the numbers mean, and how they are written, is the affair of the modules that own them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from susc_pipeline.messages import shown

MAX_CONFIG_BYTES = 1 << 20


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """What config.json says of a stored object of that kind.

    Raises:
        ValueError: the file is missing or damaged, or the object is of another kind.
    """
    path = folder / "config.json"
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(MAX_CONFIG_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is missing or damaged ({str(error)[:100]}); materialize {kind} again") from error
    found = content.get("kind") if isinstance(content, dict) else None
    if found != kind:
        article = "an" if kind[0] in "aeiou" else "a"
        raise ValueError(f"{folder} must hold {article} {kind}, got {shown(found)}; load it with its own module")
    return content


def number(config: Mapping[str, Any], name: str, kind: type, folder: Path) -> Any:
    """A number of the configuration, zero or more.

    Raises:
        ValueError: it is missing, or of another type.
    """
    value = config.get(name)
    if not isinstance(value, int | float) or type(value) is not kind or not 0 <= value < 2**63:
        raise ValueError(f"{folder} must give a {kind.__name__} as {name}, got {shown(value)}; materialize it again")
    return value


def read_arrays(path: Path, axes: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Arrays of finite floating-point numbers, one for each entry of `axes`, which names their axes, such as `pcs components`.

    Raises:
        ValueError: the file is missing or damaged, lacks an array, two of them differ in the length of an axis, or a number
            is nan or infinite.
    """
    try:
        found = load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged ({str(error)[:100]}); materialize it again") from error
    lengths: dict[str, int] = {}
    for name, words in axes.items():
        shape = found[name].shape if name in found and found[name].dtype.kind == "f" else None
        wanted = words.split()
        if (
            shape is None
            or len(shape) != len(wanted)
            or any(lengths.setdefault(a, n) != n for a, n in zip(wanted, shape))
        ):
            raise ValueError(f"{path} must hold {name} as {words or 'one number'}, got {shape}; materialize it again")
        if not np.isfinite(found[name]).all():
            raise ValueError(f"{path} holds nan or infinite numbers in {name}; materialize it again")
    return {name: found[name] for name in axes}
