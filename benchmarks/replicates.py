"""Signal and noise of columns that were measured several times by chains that share nothing.

Every product of two different chains holds signal alone, every product of a chain with itself signal and noise (analysis of
variance). So a correlation of the noiseless columns (Spearman 1904) and the variance of a mean over k chains both follow.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Products(NamedTuple):
    """Covariance over tokens of two measured columns."""

    signal: Float[np.ndarray, " columns"]
    """Between different chains."""
    noise: Float[np.ndarray, " columns"]
    """What a chain's own product has more."""

    def of_mean(self, n_chains: float) -> Float[np.ndarray, " columns"]:
        """The same of means over so many chains."""
        return self.signal + self.noise / n_chains


def products(
    first: Float[np.ndarray, "chains tokens columns"], second: Float[np.ndarray, "chains tokens columns"]
) -> Products:
    """Signal and noise of the covariance of two measurements by the same chains."""
    a, b = (part - part.mean(axis=1, keepdims=True) for part in (first, second))
    n = len(a)
    same = (a * b).mean(axis=(0, 1))
    whole = (a.mean(axis=0) * b.mean(axis=0)).mean(axis=0)
    signal = (n * whole - same) / (n - 1)
    return Products(signal, same - signal)


class Interval(NamedTuple):
    """A number and its jackknife error over chains."""

    value: float
    error: float


def jackknife(compute: Callable[[np.ndarray], float], n_chains: int) -> Interval:
    """A function of the chains that are kept, with its error from leaving out one chain after another."""
    every = np.arange(n_chains)
    without = np.array([compute(np.delete(every, one)) for one in every])
    return Interval(compute(every), float(np.sqrt((n_chains - 1) * without.var())))
