"""Mean responses of clusters turned about: known a chunk of clusters at a time, wanted for all clusters a component at a time."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from susc_pipeline.explorer import payload
from susc_pipeline.explorer.cards import Cards


class Means(NamedTuple):
    """Mean of each component over each cluster's members and half of its 95 % interval, in standard deviations; on disk."""

    mean: Float32[np.ndarray, "components clusters"]
    half: Float32[np.ndarray, "components clusters"]


def empty(folder: Path, n_components: int, n_clusters: int) -> Means:
    """Room for all of them, in files of a folder."""
    shape = n_components, n_clusters
    if not n_clusters:  # a file of no bytes cannot be mapped
        return Means(*(np.zeros(shape, np.float32) for _ in Means._fields))
    return Means(*(np.memmap(folder / f"means-{name}", np.float32, "w+", shape=shape) for name in Means._fields))


def put(found: Means, cards: Cards) -> None:
    """Set aside the means of a chunk of clusters."""
    own = cards.columns.of(cards.profile, "components")
    place = slice(cards.first, cards.first + len(own.mean))
    found.mean[:, place], found.half[:, place] = own.mean.T, own.half_width.T


def write(data: Path, found: Means) -> None:
    """A file for each component: `means/<number>`, of all clusters in order."""
    for number, pair in enumerate(zip(*found, strict=True)):
        mean, half = (payload.quantized(np.asarray(one)[:, None]) for one in pair)
        payload.write(data, f"means/{number:04d}", {"mean": mean, "half": half})
