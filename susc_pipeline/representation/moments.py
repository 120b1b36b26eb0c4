"""Count, mean and scatter of a matrix's rows, merged across shards. What is fitted to them is in pca.py, whitening.py.

Merging is the pairwise update of Chan, Golub and LeVeque (1983), in float64 whatever the dtype of the data.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64

BLOCK_SIZE = 4096


class ColumnStatistics(NamedTuple):
    """Mean and standard deviation (over count, not count - 1) of each column."""

    mean: Float64[np.ndarray, " features"]
    standard_deviation: Float64[np.ndarray, " features"]


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean, and scatter: the sum over tokens of the outer product of a centred row with itself."""

    count: int
    mean: Float64[np.ndarray, " features"]
    scatter: Float64[np.ndarray, "features features"]

    @property
    def covariance(self) -> Float64[np.ndarray, "features features"]:
        """Sample covariance: scatter over count - 1."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 tokens, got {self.count}; merge more shards")
        return self.scatter / (self.count - 1)

    @property
    def standard_deviation(self) -> Float64[np.ndarray, " features"]:
        """Square root of the covariance's diagonal."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def is_constant(self) -> Bool[np.ndarray, " features"]:
        """True for features whose spread is no more than rounding.

        The rule is that of recursive summation: a mean of `count` equal values is off by up to count * eps * |value|.
        """
        rounding = self.count * np.finfo(np.float64).eps * np.abs(self.mean)
        return self.standard_deviation <= rounding


def of(x: Float[np.ndarray, "tokens features"]) -> Moments:
    """Moments of the rows of `x`."""
    if len(x) == 0:
        raise ValueError("moments need at least 1 token, got 0; leave empty shards out")
    n_bad = int(np.sum(~np.isfinite(x)))
    if n_bad:
        raise ValueError(f"moments need finite values, got {n_bad} nan or infinite; drop those tokens")
    mean = x.mean(axis=0, dtype=np.float64)
    centred = x - mean
    return Moments(len(x), mean, centred.T @ centred)


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the rows behind `a` and those behind `b` together.

    scatter = scatter_a + scatter_b + (count_a count_b / count) d d', with d = mean_b - mean_a (Chan et al. 1983).
    """
    if len(a.mean) != len(b.mean):
        raise ValueError(
            f"moments to merge must have equally many features, got {len(a.mean)} and {len(b.mean)}; "
            "compute both from the same model components"
        )
    count = a.count + b.count
    difference = b.mean - a.mean
    mean = a.mean + difference * (b.count / count)
    between = np.outer(difference, difference) * (a.count * (b.count / count))
    return Moments(count, mean, a.scatter + b.scatter + between)


def merge_all(parts: Iterable[Moments]) -> Moments:
    """Moments of all rows behind the parts, merged from first to last; no more than two are held at once."""
    remaining = iter(parts)
    first = next(remaining, None)
    if first is None:
        raise ValueError("merge_all needs at least 1 part, got 0; compute the moments of one shard first")
    return reduce(merge, remaining, first)


def standardized(moments: Moments) -> Moments:
    """Moments of the z-scored variables: mean 0, and the correlation matrix as covariance.

    Raises:
        ValueError: a feature is constant, so that its z-score is undefined.
    """
    if moments.is_constant.any():
        columns = np.flatnonzero(moments.is_constant).tolist()
        raise ValueError(
            f"every column must vary to be z-scored, got constant columns {columns}; "
            "drop those components, or check that their chains moved"
        )
    scale = moments.standard_deviation
    return Moments(moments.count, np.zeros_like(moments.mean), moments.scatter / np.outer(scale, scale))


def column_statistics(x: Float[np.ndarray, "tokens features"]) -> ColumnStatistics:
    """Mean and standard deviation of each column, for matrices too wide for a scatter.

    Rows are read a block at a time, so that `x` may be a memory map of half-precision activations.
    """
    blocks = [x[start : start + BLOCK_SIZE] for start in range(0, len(x), BLOCK_SIZE)]
    zero = np.zeros(x.shape[1])
    mean = sum((block.sum(axis=0, dtype=np.float64) for block in blocks), zero) / len(x)
    squares = sum((((block - mean) ** 2).sum(axis=0) for block in blocks), zero)
    return ColumnStatistics(mean, np.sqrt(squares / len(x)))
