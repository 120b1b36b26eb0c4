"""Leak checks: how much one space copies another, by linear CKA and shared neighbours, with chance levels. No model here."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
import scipy
from jaxtyping import Bool, Float, Float64, Int

from susc_pipeline.representation import jackknife
from susc_pipeline.representation.jackknife import Interval

BLOCK_SIZE = 1024


@dataclass(frozen=True)
class LeakageSettings:
    """Checks of how much the predictions copy the activations."""

    n_neighbors: int = 50
    """Nearest neighbours compared by the Jaccard index."""
    n_tokens: int = 3000
    """Withheld tokens used, at most; the neighbour search is quadratic."""
    n_permutations: int = 50
    """Permutations of the chance level."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("n_neighbors", "n_tokens", "n_permutations"):
            if getattr(self, name) < 1:
                raise ValueError(f"leakage.{name} must be at least 1, got {getattr(self, name)}; raise it")


class Chance(NamedTuple):
    """Mean and 95 % interval of a measure when the rows of the two spaces are paired at random."""

    mean: float
    low: float
    high: float


def linear_cka(x: Float[np.ndarray, "tokens features"], y: Float[np.ndarray, "tokens columns"]) -> float:
    """Linear centred kernel alignment between two spaces that describe the same tokens, between 0 and 1.

    ||Y'X||^2 / (||X'X|| ||Y'Y||), Frobenius norms of centred matrices: the feature-space form of Kornblith et al. (2019).
    It does not change under rotation and isotropic scaling of either space. It is biased upwards where tokens are few
    compared with features: read it beside `cka_chance`.
    """
    x, y = _normalized(x), _normalized(y)
    return float(np.sum((y.T @ x) ** 2))


def cka_chance(
    x: Float[np.ndarray, "tokens features"],
    y: Float[np.ndarray, "tokens columns"],
    rng: np.random.Generator,
    *,
    n_permutations: int,
) -> Chance:
    """Linear CKA of the two spaces when tokens are paired at random."""
    x, y = _normalized(x), _normalized(y)
    values = [float(np.sum((y[rng.permutation(len(y))].T @ x) ** 2)) for _ in range(n_permutations)]
    low, high = np.quantile(values, [0.025, 0.975])
    return Chance(float(np.mean(values)), float(low), float(high))


def neighbour_sets(
    points: Float[np.ndarray, "tokens features"], *, n_neighbors: int
) -> Int[np.ndarray, "tokens neighbors"]:
    """The nearest other tokens of each token by Euclidean distance, nearest first, by comparing all pairs."""
    if not 1 <= n_neighbors < len(points):
        rule = f"between 1 and the number of other tokens ({len(points) - 1})"
        raise ValueError(f"n_neighbors must be {rule}, got {n_neighbors}; lower it or use more tokens")
    centred = _centred(points)
    squared_norms = np.einsum("tf,tf->t", centred, centred)
    sets = np.empty((len(points), n_neighbors), dtype=np.int64)
    for start in range(0, len(points), BLOCK_SIZE):
        block = slice(start, start + BLOCK_SIZE)
        # Without the row's own squared norm, which does not change the order within a row.
        distances = squared_norms - 2.0 * (centred[block] @ centred.T)
        np.fill_diagonal(distances[:, start:], np.inf)
        nearest = np.argpartition(distances, n_neighbors - 1, axis=1)[:, :n_neighbors]
        order = np.argsort(np.take_along_axis(distances, nearest, axis=1), axis=1)
        sets[block] = np.take_along_axis(nearest, order, axis=1)
    return sets


def neighbours_among(
    sets: Int[np.ndarray, "tokens candidates"], kept: Bool[np.ndarray, " tokens"], *, n_neighbors: int
) -> Int[np.ndarray, "kept neighbors"]:
    """Neighbour sets of the tokens kept, among them alone: exact if there are candidates to replace all left out."""
    rows = sets[kept]
    stays = kept[rows]
    return rows[stays & (np.cumsum(stays, axis=1) <= n_neighbors)].reshape(len(rows), n_neighbors)


def mean_jaccard(a: Int[np.ndarray, "tokens neighbors"], b: Int[np.ndarray, "tokens neighbors"]) -> float:
    """Mean over tokens of the size of the intersection of two neighbour sets over that of their union."""
    together = np.sort(np.concatenate([a, b], axis=1), axis=1)
    n_shared = np.sum(together[:, 1:] == together[:, :-1], axis=1)
    return float(np.mean(n_shared / (2 * a.shape[1] - n_shared)))


def jaccard_chance(n_tokens: int, *, n_neighbors: int) -> float:
    """Mean Jaccard index of neighbour sets when tokens are paired at random; about k / (2n).

    A random pairing makes one set a uniform draw of k out of n - 1 tokens whatever the geometry, so the number shared
    is hypergeometric, and the expectation exact.
    """
    n_shared = np.arange(n_neighbors + 1)
    probability = scipy.stats.hypergeom.pmf(n_shared, n_tokens - 1, n_neighbors, n_neighbors)
    return float(np.sum(probability * n_shared / (2 * n_neighbors - n_shared)))


def _normalized(x: Float[np.ndarray, "tokens features"]) -> Float64[np.ndarray, "tokens features"]:
    """Centred, and scaled so that the Frobenius norm of X'X is 1."""
    centred = _centred(x)
    norm = np.sqrt(np.linalg.norm(centred.T @ centred))
    rounding = x.size * np.finfo(np.float64).eps * np.abs(x).max(initial=0.0)
    if norm <= rounding:
        raise ValueError("linear CKA needs tokens that differ, got equal rows; check the activations or scores")
    return centred / norm


def _centred(x: Float[np.ndarray, "tokens features"]) -> Float64[np.ndarray, "tokens features"]:
    if not np.isfinite(x).all():
        raise ValueError(f"leak checks need finite values, got {int(np.sum(~np.isfinite(x)))} nan or infinite")
    return x - x.mean(axis=0, dtype=np.float64)


def table(
    activations: Float[np.ndarray, "tokens features"],
    spaces: dict[str, Float[np.ndarray, "tokens columns"]],
    documents: Int[np.ndarray, " tokens"],
    *,
    layers: tuple[int, ...],
    settings: LeakageSettings,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """CKA and mean Jaccard of every layer's activations with every named space: intervals over documents, chance levels.

    Args:
        activations: layers side by side, equally wide.
        spaces: by name; z-scored column by column before they are compared, for components differ in scale.
        documents: of each token.
        layers: what the parts of `activations` are called.
        settings: neighbours, most tokens, permutations.
        rng: chooses tokens, groups of documents and permutations.
    """
    n_tokens = min(len(activations), settings.n_tokens)
    chosen = np.sort(rng.permutation(len(activations))[:n_tokens])
    groups = jackknife.document_groups(documents[chosen], rng)
    largest = int(np.bincount(groups).max())
    k = max(1, min(settings.n_neighbors, n_tokens - largest - 1))
    by_layer = np.split(activations[chosen], len(layers), axis=1)
    # As many more as may be left out with a group of documents.
    near_by_layer = [neighbour_sets(active, n_neighbors=min(k + largest, n_tokens - 1)) for active in by_layer]
    rows = []
    for name, space in spaces.items():
        values = space[chosen] / space.std(axis=0)
        near = neighbour_sets(values, n_neighbors=min(k + largest, n_tokens - 1))
        for layer, active, near_active in zip(layers, by_layer, near_by_layer, strict=True):
            chance = cka_chance(active, values, rng, n_permutations=settings.n_permutations)
            cka = cka_interval(active, values, groups)
            jaccard = jaccard_interval(near_active, near, groups, n_neighbors=k)
            by_chance = jaccard_chance(n_tokens, n_neighbors=k)
            rows.append((name, layer, *cka, chance.mean, chance.high, *jaccard, by_chance))
    columns = ["space", "layer", "cka", "cka_low", "cka_high", "cka_chance", "cka_chance_high"]
    columns += ["jaccard", "jaccard_low", "jaccard_high", "jaccard_chance"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def cka_interval(
    x: Float[np.ndarray, "tokens features"], y: Float[np.ndarray, "tokens columns"], groups: Int[np.ndarray, " tokens"]
) -> Interval:
    """Linear CKA with its interval over groups of documents."""
    return jackknife.interval(lambda kept: linear_cka(x[kept], y[kept]), groups)


def jaccard_interval(
    a: Int[np.ndarray, "tokens candidates"],
    b: Int[np.ndarray, "tokens candidates"],
    groups: Int[np.ndarray, " tokens"],
    *,
    n_neighbors: int,
) -> Interval:
    """Mean Jaccard index of the nearest neighbours with its interval over groups of documents.

    Neighbours are found anew among the tokens that stay; `a` and `b` are sets of as many more as a group has tokens.
    """

    def measure(kept: Bool[np.ndarray, " tokens"]) -> float:
        return mean_jaccard(*(neighbours_among(sets, kept, n_neighbors=n_neighbors) for sets in (a, b)))

    return jackknife.interval(measure, groups)
