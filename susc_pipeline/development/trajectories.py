"""Tests of trajectories of the local learning coefficient (LLC): what differs from noise, chain by chain.

A chain draws its contexts and its noise in one order at every checkpoint, though it may stop sooner at one than at another.
So a chain is a block: differences are taken within a chain first, and their error is the spread of these differences over
chains, which share nothing. Where lengths differ less noise cancels, and the error holds what is left.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import scipy
from jaxtyping import Float, Int

from susc_pipeline.development.measured import Checkpoint
from susc_pipeline.schema import development_tables


class Differentiation(NamedTuple):
    """Whether the columns of a table differ, beyond noise."""

    spread: float
    """Standard deviation of the columns' true values, noise taken off; 0 where noise explains all of it."""
    noise: float
    """Standard error of a column's mean."""
    statistic: float
    """F of a two-way analysis of variance: mean square between columns over the residual's."""
    p_value: float


def differentiation(
    values: Float[np.ndarray, "chains columns"], groups: Int[np.ndarray, " columns"] | None = None
) -> Differentiation:
    """Two-way analysis of variance without replication (Fisher 1925), chains as blocks: do the columns differ?

    With groups, do columns differ within their group? Each group then has blocks of its own, and sums of squares are pooled.

    Args:
        values: a column for each component.
        groups: number of each column's group, such as its layer; none: all are one.

    Raises:
        ValueError: fewer than two chains, or no group of two columns.
    """
    n_chains, n_columns = values.shape
    groups = np.zeros(n_columns, np.int64) if groups is None else groups
    numbers, sizes = np.unique(groups, return_counts=True)
    n_free = int((sizes - 1).sum())
    if n_chains < 2 or n_free < 1:
        raise ValueError(
            f"an analysis of variance needs 2 chains and 2 columns, got {n_chains} and {n_columns}; use more"
        )
    between, within = 0.0, 0.0
    for number in numbers:
        part = values[:, groups == number]
        means = part.mean(axis=0) - part.mean()
        between += n_chains * float(np.square(means).sum())
        within += float(np.square(part - part.mean(axis=1, keepdims=True) - means).sum())
    between, within = between / n_free, within / (n_free * (n_chains - 1))
    if within == 0:
        statistic, p_value = (np.inf, 0.0) if between > 0 else (0.0, 1.0)
    else:
        statistic = between / within
        p_value = scipy.stats.f.sf(statistic, n_free, n_free * (n_chains - 1))
    spread = np.sqrt(max(0.0, (between - within) / n_chains))
    return Differentiation(float(spread), float(np.sqrt(within / n_chains)), float(statistic), float(p_value))


def holm(p_values: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """P values adjusted for their number (Holm 1979): below a level, at most that share of families has one false rejection."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1)), 1.0)
    return adjusted


class Difference(NamedTuple):
    """Mean of differences within chains, its standard error, and the p value of Student's t against zero."""

    mean: Float[np.ndarray, "*shape"]
    error: Float[np.ndarray, "*shape"]
    p_value: Float[np.ndarray, "*shape"]


def difference(values: Float[np.ndarray, "chains *shape"]) -> Difference:
    """Whether the mean over chains is zero, of each entry by itself. Entries that do not vary have p 0, or 1 at zero."""
    mean = values.mean(axis=0)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    ratio = np.divide(mean, error, out=np.where(mean == 0, 0.0, np.inf), where=error > 0)
    return Difference(mean, error, 2 * scipy.stats.t.sf(np.abs(ratio), len(values) - 1))


def change_table(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> pl.DataFrame:
    """Change of each component's LLC from a checkpoint to the next, as DEVELOPMENT_CHANGES, adjusted over the whole table."""
    found = difference(np.stack([b.chain_llc - a.chain_llc for a, b in itertools.pairwise(checkpoints)], axis=1))
    adjusted = holm(found.p_value.ravel()).reshape(found.p_value.shape)
    rows = [
        (name, a.step, b.step, *(float(part[row, column]) for part in (*found, adjusted)))
        for row, (a, b) in enumerate(itertools.pairwise(checkpoints))
        for column, name in enumerate(names)
    ]
    return pl.DataFrame(rows, schema=development_tables.DEVELOPMENT_CHANGES, orient="row")


def head_table(
    checkpoints: Sequence[Checkpoint], heads: Sequence[int], layers: Int[np.ndarray, " heads"]
) -> pl.DataFrame:
    """Whether the heads' LLCs differ at each checkpoint, as DEVELOPMENT_HEADS, adjusted over the whole table.

    Of scope `all`, whether heads differ at all; of scope `layer`, whether the heads of a layer differ from one another.
    """
    scopes = {"all": np.zeros_like(layers), "layer": layers}
    found = [
        (one, scope, differentiation(one.chain_llc[:, heads], groups))
        for one in checkpoints
        for scope, groups in scopes.items()
        if len(np.unique(groups)) < len(groups)
    ]
    adjusted = holm(np.array([each.p_value for *_, each in found]))
    rows = [
        (one.step, scope, float(one.chain_llc[:, heads].mean()), *each, float(p))
        for (one, scope, each), p in zip(found, adjusted, strict=True)
    ]
    return pl.DataFrame(rows, schema=development_tables.DEVELOPMENT_HEADS, orient="row")


def separation_table(checkpoints: Sequence[Checkpoint], heads: Sequence[int], names: Sequence[str]) -> pl.DataFrame:
    """Each head's LLC less the mean of the other heads, as DEVELOPMENT_SEPARATIONS, adjusted over the whole table.

    Fewer than two heads separate from nothing: the table is empty.
    """
    if len(heads) < 2:
        return pl.DataFrame(schema=development_tables.DEVELOPMENT_SEPARATIONS)
    llc = np.stack([one.chain_llc[:, heads] for one in checkpoints], axis=1)
    others = (llc.sum(axis=2, keepdims=True) - llc) / (llc.shape[2] - 1)
    found = difference(llc - others)
    adjusted = holm(found.p_value.ravel()).reshape(found.p_value.shape)
    rows = [
        (names[head], one.step, *(float(part[row, column]) for part in (*found, adjusted)))
        for row, one in enumerate(checkpoints)
        for column, head in enumerate(heads)
    ]
    return pl.DataFrame(rows, schema=development_tables.DEVELOPMENT_SEPARATIONS, orient="row")
