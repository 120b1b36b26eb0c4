"""Planted truth: dense clusters in a heavy-tailed, anisotropic cloud, before whitening. No graph, no search."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

DEGREES_OF_FREEDOM = 4.0
BULK_SPECTRUM_POWER = 1.0
SPREAD_RANGE = (0.05, 0.3)
SMALL_SIZES = (20, 50)
KINDS = {"far": (0.7, 2.0), "near": (0.2, 0.7), "small": (0.2, 2.0), "low_variance": (0.7, 2.0)}
"""How many times farther out than a draw of the bulk a cluster's centre lies, least and most, for each kind."""


class Planted(NamedTuple):
    """Points in shuffled order, with the cluster each was drawn from (-1 in the bulk), and the kind of each cluster."""

    points: Float[np.ndarray, "tokens pcs"]
    labels: Int[np.ndarray, " tokens"]
    kinds: list[str]


def plant(
    n_points: int,
    n_dimensions: int,
    n_clusters: int,
    rng: np.random.Generator,
    *,
    size_range: tuple[int, int] = (20, 2000),
    max_clustered_fraction: float = 0.5,
) -> Planted:
    """Clusters of log-uniform size in a Student cloud, kind after kind in turn.

    A cluster's centre is a draw of the bulk times a remoteness; its spread is 0.05 ... 0.3 of the bulk's, with an
    axis-by-axis anisotropy of its own. The kinds: `far` from the mean; `near` it, in the midst of the bulk; `small`, of
    20 to 50 points; `low_variance`, which along the quarter of the axes with most variance are spread as the bulk is, so
    that they stand out only where there is little variance. The spectrum falls as the square of the axis, and the axes
    are rotated: without whitening only the first few count.
    """
    kinds = [list(KINDS)[number % len(KINDS)] for number in range(n_clusters)]
    sizes = cluster_sizes(n_clusters, size_range, int(max_clustered_fraction * n_points), rng)
    is_small = np.array(kinds) == "small"
    sizes[is_small] = np.minimum(sizes[is_small], np.round(log_uniform(*SMALL_SIZES, is_small.sum(), rng)).astype(int))
    labels = np.repeat(np.arange(-1, n_clusters), [n_points - sizes.sum(), *sizes])
    points = student_cloud(n_points, n_dimensions, rng)
    for cluster, kind in enumerate(kinds):
        centre = student_cloud(1, n_dimensions, rng) * rng.uniform(*KINDS[kind])
        spread = np.sqrt(log_uniform(*SPREAD_RANGE, n_dimensions, rng) * log_uniform(*SPREAD_RANGE, 1, rng))
        if kind == "low_variance":
            leading = n_dimensions // 4
            centre[:, :leading], spread[:leading] = 0.0, 1.0
        noise = rng.standard_normal((sizes[cluster], n_dimensions)) * spread
        points[labels == cluster] = centre + noise * axis_scales(n_dimensions)
    order = rng.permutation(n_points)
    rotation = np.linalg.qr(rng.standard_normal((n_dimensions, n_dimensions))).Q
    return Planted((points[order] @ rotation).astype(np.float32), labels[order], kinds)


def cluster_sizes(
    n_clusters: int, size_range: tuple[int, int], n_available: int, rng: np.random.Generator
) -> Int[np.ndarray, " clusters"]:
    """Log-uniform sizes; where they exceed the points available, the excess over the minimum shrinks in proportion."""
    smallest, largest = size_range
    if n_clusters * smallest > n_available:
        raise ValueError(f"{n_clusters} clusters of {smallest} need more than the {n_available} points to be clustered")
    sizes = np.round(log_uniform(smallest, largest, n_clusters, rng)).astype(int)
    excess = (sizes - smallest).sum()
    shrink = min(1.0, (n_available - n_clusters * smallest) / max(excess, 1))
    return smallest + ((sizes - smallest) * shrink).astype(int)


def student_cloud(n_points: int, n_dimensions: int, rng: np.random.Generator) -> Float[np.ndarray, "tokens pcs"]:
    """Multivariate Student draws: one heavy-tailed radius per point, the spectrum falling as a power of the axis."""
    radius = np.sqrt(DEGREES_OF_FREEDOM / rng.chisquare(DEGREES_OF_FREEDOM, size=(n_points, 1)))
    return rng.standard_normal((n_points, n_dimensions)) * radius * axis_scales(n_dimensions)


def axis_scales(n_dimensions: int) -> Float[np.ndarray, " pcs"]:
    """Standard deviation along each axis before whitening."""
    return np.arange(1, n_dimensions + 1) ** -BULK_SPECTRUM_POWER


def log_uniform(low: float, high: float, size: int, rng: np.random.Generator) -> Float[np.ndarray, " draws"]:
    """Draws whose logarithm is uniform."""
    return np.exp(rng.uniform(np.log(low), np.log(high), size))
