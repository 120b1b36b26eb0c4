"""Linear datamodeling score: do predictions rank the models that are trained on subsets (Park et al. 2023)?"""

import numpy as np
import scipy
from jaxtyping import Bool, Float

from susc_pipeline.representation.jackknife import Interval


def predicted(
    responses: Float[np.ndarray, "targets documents"], subsets: Bool[np.ndarray, "subsets documents"]
) -> Float[np.ndarray, "subsets targets"]:
    """The sum of the responses of each subset's documents, for each target."""
    return subsets.astype(np.float64) @ responses.T


def score(
    predicted: Float[np.ndarray, "subsets targets"],
    measured: Float[np.ndarray, "subsets targets"],
    rng: np.random.Generator,
    *,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Spearman correlation over subsets of predicted and measured values, the mean over targets, with a bootstrap interval.

    The bootstrap draws subsets and targets with repetition. A target with one value alone counts as zero.

    Raises:
        ValueError: fewer than three subsets.
    """
    n_subsets, n_targets = predicted.shape
    if n_subsets < 3:
        raise ValueError(f"a rank correlation needs at least 3 subsets, got {n_subsets}; train on more")

    def mean(rows: np.ndarray, columns: np.ndarray) -> float:
        ranks = (scipy.stats.rankdata(each[np.ix_(rows, columns)], axis=0) for each in (predicted, measured))
        a, b = (each - each.mean(axis=0) for each in ranks)
        length = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
        products = (a * b).sum(axis=0)
        return float(np.divide(products, length, out=np.zeros_like(products), where=length > 0).mean())

    draws = [
        mean(rng.integers(n_subsets, size=n_subsets), rng.integers(n_targets, size=n_targets))
        for _ in range(n_resamples)
    ]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean(np.arange(n_subsets), np.arange(n_targets)), float(low), float(high))
