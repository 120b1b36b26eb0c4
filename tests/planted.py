"""Planted truth: dense clusters in a heavy-tailed, anisotropic cloud, before whitening. No graph, no search."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

DEGREES_OF_FREEDOM = 4.0
BULK_SPECTRUM_POWER = 1.0
SPREAD_RANGE = (0.05, 0.3)
SMALL_SIZES = (20, 50)
TWIN_DISTANCE = 6.0  # spreads
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
    return shuffled(points, labels, kinds, rng)


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


def stretched(n_points: int, n_dimensions: int, n_clusters: int, rng: np.random.Generator) -> Planted:
    """Clusters drawn out along one, two and three directions in turn, 10 to 20 times as far as they are thick; in a cloud.

    Uniform along the directions, which are random, and Gaussian around them, with a spread of 0.05 to 0.1 of the bulk's.
    """
    sizes = cluster_sizes(n_clusters, (50, 2000), n_points // 2, rng)
    labels = np.repeat(np.arange(-1, n_clusters), [n_points - sizes.sum(), *sizes])
    points = student_cloud(n_points, n_dimensions, rng) / axis_scales(n_dimensions)
    for cluster in range(n_clusters):
        n_long = 1 + cluster % 3
        centre = student_cloud(1, n_dimensions, rng) / axis_scales(n_dimensions) * rng.uniform(*KINDS["far"])
        thickness = log_uniform(0.05, 0.1, 1, rng)
        along = np.linalg.qr(rng.standard_normal((n_dimensions, n_long))).Q * rng.uniform(10, 20, n_long)
        noise = rng.standard_normal((sizes[cluster], n_dimensions))
        points[labels == cluster] = (
            centre + thickness * (rng.uniform(-1, 1, (sizes[cluster], n_long)) @ along.T) + thickness * noise
        )
    kinds = [f"dimension {1 + cluster % 3}" for cluster in range(n_clusters)]
    return shuffled(points * axis_scales(n_dimensions), labels, kinds, rng)


def nested(n_points: int, n_dimensions: int, n_families: int, rng: np.random.Generator) -> Planted:
    """Families of two clusters of 60 to 120 points each, six of their spreads apart, far from the bulk: twins.

    Cluster 2 n and 2 n + 1 are of family n.
    """
    sizes = rng.integers(60, 120, 2 * n_families)
    labels = np.repeat(np.arange(-1, 2 * n_families), [n_points - sizes.sum(), *sizes])
    points = student_cloud(n_points, n_dimensions, rng) / axis_scales(n_dimensions)
    for family in range(n_families):
        centre = student_cloud(1, n_dimensions, rng) / axis_scales(n_dimensions) * rng.uniform(*KINDS["far"])
        spread = log_uniform(0.05, 0.1, 1, rng)
        apart = rng.standard_normal(n_dimensions)
        apart *= TWIN_DISTANCE / np.linalg.norm(apart)
        for twin in (2 * family, 2 * family + 1):
            noise = rng.standard_normal((sizes[twin], n_dimensions))
            points[labels == twin] = centre + spread * (noise + (twin % 2) * apart)
    return shuffled(points * axis_scales(n_dimensions), labels, ["twin"] * 2 * n_families, rng)


def shuffled(
    points: Float[np.ndarray, "tokens pcs"],
    labels: Int[np.ndarray, " tokens"],
    kinds: list[str],
    rng: np.random.Generator,
) -> Planted:
    """The points in random order, their axes rotated."""
    order, n_dimensions = rng.permutation(len(points)), points.shape[1]
    rotation = np.linalg.qr(rng.standard_normal((n_dimensions, n_dimensions))).Q
    return Planted((points[order] @ rotation).astype(np.float32), labels[order], kinds)
