"""Split-half reliability of susceptibilities, per component and per PC, and the noise ceiling. No estimation of them.

Notation: a measured column is signal + sampling noise; its reliability is the signal's share of its variance. Two halves
of the chains give two measurements with the same signal and independent noise, so that their correlation estimates the
reliability of *one half*; the Spearman-Brown formula gives that of both together. The halves must share no chain and no
antithetic pair, or the noise they share counts as signal.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import scipy
from jaxtyping import Float, Float64

from susc_pipeline import schema
from susc_pipeline.representation import metrics, moments
from susc_pipeline.representation.moments import Moments
from susc_pipeline.representation.pca import PCABasis


def of_replicates(measured: Float[np.ndarray, "replicates tokens"]) -> float:
    """Reliability of the mean of independent measurements: the signal's share of its variance over tokens.

    By analysis of variance: the mean's noise is the replicates' variance around it over their number. Each replicate is
    centred over tokens first, for a shift of all tokens is no signal. Negative where there is more noise than variance.
    """
    centred = measured - measured.mean(axis=1, keepdims=True)
    noise = centred.var(axis=0, ddof=1).mean() / len(centred)
    variance = np.square(centred.mean(axis=0)).mean()
    return float(1 - noise / variance) if variance > 0 else 0.0


def contexts_needed(
    rest: Float[np.ndarray, "replicates tokens"],
    rise: Float[np.ndarray, "replicates tokens"],
    *,
    n_contexts: int,
    reliability: float,
) -> float:
    """Contexts at which rest + rise would have the reliability, when `rise` had `n_contexts` and its noise falls with them.

    Infinite where the noise of `rest`, which stays, is too much alone, or where no signal was found.
    """

    def noise(part: np.ndarray) -> float:
        centred = part - part.mean(axis=1, keepdims=True)
        return float(centred.var(axis=0, ddof=1).mean() / len(part))

    whole = rest + rise
    centred = whole - whole.mean(axis=1, keepdims=True)
    signal = float(np.square(centred.mean(axis=0)).mean()) - noise(whole)
    allowed = signal * (1 - reliability) / reliability - noise(rest)
    return n_contexts * noise(rise) / allowed if allowed > 0 else float("inf")


class Interval(NamedTuple):
    """A reliability, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def of_replicates_interval(measured: Float[np.ndarray, "replicates tokens"]) -> Interval:
    """`of_replicates` with an interval for the reliability that other chains would show on the same tokens.

    Student's t times the delete-one jackknife error, on the scale log(1 - r): 1 / (1 - r) is the ratio of an analysis of
    variance, and its logarithm is nearly symmetric. Replicates are left out, not tokens, because the noise of one chain
    moves many tokens together. The Spearman-Brown formula brings estimates from n - 1 replicates to n.

    With eight replicates of Gaussian noise, of any rank, the interval covers 94 to 98 %. Below r = 0.6 it is too wide (98 %);
    heavy tails make it too narrow (91 % for Student's t of 5 degrees of freedom). On the scale of r, 84 % would be covered.

    Raises:
        ValueError: fewer than three replicates.
    """
    n_replicates = len(measured)
    if n_replicates < 3:
        raise ValueError(f"an interval needs at least 3 replicates, got {n_replicates}; raise sampling.n_chains")
    value = of_replicates(measured)
    without = np.array([of_replicates(np.delete(measured, one, axis=0)) for one in range(n_replicates)])
    corrected = spearman_brown(without, factor=n_replicates / (n_replicates - 1))
    noise_share = np.log(np.maximum(1 - np.append(corrected, value), np.finfo(float).eps))
    error = np.sqrt((n_replicates - 1) * noise_share[:-1].var())
    width = scipy.stats.t.ppf(0.975, n_replicates - 1) * error
    low, high = (float(-np.expm1(noise_share[-1] + side * width)) for side in (1, -1))
    return Interval(value, low, high)


class Reliability(NamedTuple):
    """For each column: correlation of the halves, reliability of the whole, and what a perfect predictor would reach."""

    half_correlation: Float64[np.ndarray, " columns"]
    reliability: Float64[np.ndarray, " columns"]
    ceiling: Float64[np.ndarray, " columns"]


def split_half(
    halves: Sequence[tuple[Float[np.ndarray, "tokens components"], Float[np.ndarray, "tokens components"]]],
) -> Reliability:
    """Reliability per component from one or several splits of the chains into halves.

    Args:
        halves: for each split the two estimates of the same susceptibility matrix. Half correlations are averaged over
            splits before they are corrected.
    """
    if not halves:
        raise ValueError("split_half needs at least 1 split, got 0; estimate from two halves of the chains")
    half_correlation = np.mean([metrics.correlation_per_column(a, b) for a, b in halves], axis=0)
    reliability = spearman_brown(half_correlation, factor=2.0)
    return Reliability(half_correlation, reliability, noise_ceiling(reliability))


def moments_of_halves(frames: Iterable[pl.LazyFrame]) -> Moments:
    """Moments of both halves of the chains side by side, half_a before half_b; one shard's table is in memory at a time."""
    collected = (frame.select("half_a", "half_b").collect() for frame in frames)
    return moments.merge_all(
        moments.of(np.concatenate([schema.matrix(frame[half]) for half in frame.columns], axis=1))
        for frame in collected
        if frame.height
    )


def split_half_along(halves: Moments, axes: Float[np.ndarray, "axes components"]) -> Reliability:
    """Reliability of the susceptibility matrix along each axis, from `moments_of_halves`.

    The same as `split_half` of both halves times the axes, to rounding, without their tokens.
    """
    if halves.is_constant.any():
        columns = np.flatnonzero(halves.is_constant) % axes.shape[1]
        raise ValueError(f"reliability needs components that vary, got constant ones {columns.tolist()}; drop them")
    (of_a, shared), (_, of_b) = (np.split(row, 2, axis=1) for row in np.split(halves.covariance, 2))
    products = (np.einsum("pc,cd,pd->p", axes, part, axes, optimize=True) for part in (of_a, of_b, shared))
    variance_a, variance_b, covariance = products
    half_correlation = covariance / np.sqrt(variance_a * variance_b)
    reliability = spearman_brown(half_correlation, factor=2.0)
    return Reliability(half_correlation, reliability, noise_ceiling(reliability))


def split_half_scores(halves: Moments, basis: PCABasis) -> Reliability:
    """Reliability per principal component: both halves in the coordinates of one basis.

    The basis belongs to the whole estimate. Halves are noisier and their z-scores wider than 1, but correlations do not
    depend on scale, and the basis's mean cancels.
    """
    return split_half_along(halves, basis.components / basis.scale)


def spearman_brown(correlation: Float[np.ndarray, " columns"], *, factor: float) -> Float64[np.ndarray, " columns"]:
    """Reliability of a measurement `factor` times as long: f r / (1 + (f - 1) r) (Spearman 1910; Brown 1910).

    A negative correlation is returned as it is. It says that the reliability is near zero; the formula would stretch
    -0.9 to -18.
    """
    if not factor > 0:
        raise ValueError(f"factor must be positive, got {factor:g}; 2 goes from one half to the whole")
    positive = np.maximum(correlation, 0.0).astype(np.float64)
    return np.where(correlation > 0, factor * positive / (1.0 + (factor - 1.0) * positive), correlation)


def noise_ceiling(reliability: Float[np.ndarray, " columns"]) -> Float64[np.ndarray, " columns"]:
    """Expected correlation of the noiseless truth with the measurement: the root of the reliability (Spearman 1904).

    No predictor that knows nothing of the noise can do better. Zero where the reliability is negative.
    """
    return np.sqrt(np.maximum(reliability, 0.0).astype(np.float64))


def product_table(products: Mapping[str, Float64[np.ndarray, "chains chains"]]) -> pl.DataFrame:
    """Sums over tokens of the products of two chains' centred estimates, a row for each component and pair of chains."""
    rows = [
        (component, chain, other, float(value))
        for component, matrix in products.items()
        for (chain, other), value in np.ndenumerate(matrix)
    ]
    return pl.DataFrame(rows, schema=schema.CHAIN_PRODUCTS, orient="row")


def of_products(table: pl.DataFrame, names: Sequence[str]) -> dict[str, Float64[np.ndarray, " components"]]:
    """Each component's reliability by all chains, with the ends of its 95 % interval and its ceiling.

    It is `of_replicates`, the mean over all splits of the chains; one split into halves is a noisier estimate of it. It depends
    on the estimates through the products of chains alone: a few columns with the same products stand for the tokens.
    """
    summed = table.group_by("component", "chain", "other_chain").agg(pl.col("product").sum())
    found = []
    for name in names:
        rows = summed.filter(component=name).sort("chain", "other_chain")
        n_chains = int(np.sqrt(rows.height))
        values, vectors = np.linalg.eigh(rows["product"].to_numpy().reshape(n_chains, n_chains))
        columns = vectors * np.sqrt(np.maximum(values, 0.0))
        found.append(of_replicates_interval(np.concatenate([columns, -columns], axis=1)))
    value, low, high = np.array(found, np.float64).reshape(-1, 3).T
    return {"reliability": value, "low": low, "high": high, "ceiling": noise_ceiling(value)}
