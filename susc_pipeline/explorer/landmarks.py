"""Landmarks of the map: where each cluster lies on it, in which colour, and in which few words.

A colour is shared by clusters that lie apart. `colors` states the rule; the palette is in static/colors.js.
"""

import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

N_COLORS = 6
MAX_WORDS = 28
AT_ONCE = 1024
COUNTS = re.compile(r" \d+(,\d+)* of \d+(,\d+)*")


class Landmarks(NamedTuple):
    """The clusters that have points on the map, those of most points first; of equal ones the lower number first."""

    cluster: Int[np.ndarray, " landmarks"]
    count: Int[np.ndarray, " landmarks"]
    """Points of the cluster on the map."""
    point: Int[np.ndarray, " landmarks"]
    """The point nearest to the medians of its coordinates: a mean of two islands would lie in neither."""
    color: Int[np.ndarray, " landmarks"]
    """Number of its colour in the palette."""


def landmarks(places: Float[np.ndarray, "points 2"], labels: Int[np.ndarray, " points"]) -> Landmarks:
    """The landmarks of points with these clusters; -1 is none."""
    order = np.argsort(labels, kind="stable")
    clusters, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    members = np.split(order, starts[1:])
    point = np.array([own[_nearest_to_median(places[own])] for own in members], dtype=np.int64)
    falling = np.lexsort((clusters, -counts))
    chosen = falling[clusters[falling] >= 0]
    return Landmarks(clusters[chosen], counts[chosen], point[chosen], colors(places[point[chosen]]))


def colors(places: Float[np.ndarray, "landmarks 2"], n_colors: int = N_COLORS) -> Int[np.ndarray, " landmarks"]:
    """A colour for each place, given the largest cluster first.

    Each takes, of the colours that none of its n_colors - 1 nearest larger clusters has, the one that fewest have (then the
    first). So two clusters have one colour only where n_colors - 1 clusters larger than the smaller of them lie nearer to it.
    """
    found, used = np.zeros(len(places), np.int64), np.zeros(n_colors, np.int64)
    for rank, near in enumerate(_nearest_earlier(places, n_colors - 1)):
        free = np.setdiff1d(np.arange(n_colors), found[near])
        found[rank] = free[np.argmin(used[free])]
        used[found[rank]] += 1
    return found


def words(heading: str) -> str:
    """A cluster's heading without its counts and quotes, at most MAX_WORDS characters long."""
    text = COUNTS.sub("", heading).replace("`", "").replace(" different tokens", " tokens")
    return text if len(text) <= MAX_WORDS else text[: MAX_WORDS - 1].rstrip() + "…"


def _nearest_to_median(places: Float[np.ndarray, "points 2"]) -> int:
    return int(np.argmin(((places - np.median(places, axis=0)) ** 2).sum(axis=1)))


def _nearest_earlier(places: Float[np.ndarray, "landmarks 2"], n_near: int) -> list[Int[np.ndarray, " near"]]:
    """Of each place the nearest ones among those before it, at most n_near."""
    found: list[Int[np.ndarray, " near"]] = []
    for start in range(0, len(places), AT_ONCE):
        block = places[start : start + AT_ONCE]
        numbers = np.tile(start + np.arange(len(block)), (len(block), 1))
        distances = np.where(np.tri(len(block), k=-1, dtype=bool), cdist(block, block), np.inf)
        if start:
            far, before = KDTree(places[:start]).query(block, k=np.arange(1, min(n_near, start) + 1))
            distances, numbers = np.hstack([far, distances]), np.hstack([before, numbers])
        nearest = np.argsort(distances, axis=1, kind="stable")[:, :n_near]
        known = np.isfinite(np.take_along_axis(distances, nearest, axis=1))
        rows = np.take_along_axis(numbers, nearest, axis=1)
        found += [row[kept] for row, kept in zip(rows, known, strict=True)]
    return found
