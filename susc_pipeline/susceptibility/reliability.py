"""Split-half reliability of susceptibilities, per component and per PC, and the noise ceiling. No estimation of them.

Notation: a measured column is signal + sampling noise; its reliability is the signal's share of its variance. Two halves
of the chains give two measurements with the same signal and independent noise, so that their correlation estimates the
reliability of *one half*; the Spearman-Brown formula gives that of both together. The halves must share no chain and no
antithetic pair, or the noise they share counts as signal.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Float64

from susc_pipeline import schema
from susc_pipeline.representation import metrics, moments
from susc_pipeline.representation.moments import Moments
from susc_pipeline.representation.pca import PCABasis
from susc_pipeline.susceptibility.estimators import ShardEstimates


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


def control_table(names: Sequence[str], real: ShardEstimates, control: ShardEstimates) -> pl.DataFrame:
    """Per component: how susceptibilities correlate over tokens with those of a control, as schema.CONTROL.

    The disattenuated correlation is that of the two without their sampling noise (Spearman 1904); noise makes it pass 1.
    """
    found = split_half([(real.half_a, real.half_b)]).reliability
    of_control = split_half([(control.half_a, control.half_b)]).reliability
    correlation = metrics.correlation_per_column(real.value, control.value)
    noise = np.sqrt(np.maximum(found * of_control, np.finfo(float).tiny))
    columns = {"component": list(names), "correlation": correlation, "reliability": found}
    columns |= {"control_reliability": of_control, "disattenuated": correlation / noise}
    return pl.DataFrame(columns, schema=schema.CONTROL)


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
