"""Mean vectors of clusters with their errors, from sums that grow shard by shard. No text, no files.

Tokens of one document are alike, so the unit of the error is the document: the standard error of a mean is the
cluster-robust one (Liang and Zeger 1986), with the correction D/(D - 1) for D documents.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int


class Sums(NamedTuple):
    """Of each cluster: members, documents, the sum of the vectors, and what the error over documents needs."""

    count: Float64[np.ndarray, " clusters"]
    n_documents: Float64[np.ndarray, " clusters"]
    squared_count: Float64[np.ndarray, " clusters"]
    total: Float64[np.ndarray, "clusters columns"]
    squared_total: Float64[np.ndarray, "clusters columns"]
    counted_total: Float64[np.ndarray, "clusters columns"]


class Profile(NamedTuple):
    """Mean vector of each cluster and its standard error; nan where there is no member, or but one document."""

    mean: Float64[np.ndarray, "clusters columns"]
    standard_error: Float64[np.ndarray, "clusters columns"]


def empty(n_clusters: int, n_columns: int) -> Sums:
    """Sums over no member."""
    counts, totals = (n_clusters,), (n_clusters, n_columns)
    return Sums(*(np.zeros(shape) for shape in 3 * [counts] + 3 * [totals]))


def add(
    found: Sums,
    values: Float[np.ndarray, "members columns"],
    cluster: Int[np.ndarray, " members"],
    document: Int[np.ndarray, " members"],
) -> None:
    """Add members to the sums, in place; a document's members of a cluster come in one call.

    With s_d the sum of the vectors of a cluster's members in document d, and n_d their number, what is summed over d is
    n_d, 1, n_d^2, s_d, s_d^2 and n_d s_d. In place, because a shard touches few of many clusters.
    """
    if not len(cluster):
        return
    order = np.lexsort((document, cluster))
    cluster, document, values = cluster[order], document[order], values[order].astype(np.float64)
    starts = np.flatnonzero(np.r_[True, (np.diff(cluster) != 0) | (np.diff(document) != 0)])
    n_d = np.diff(np.r_[starts, len(cluster)]).astype(np.float64)
    s_d = np.add.reduceat(values, starts, axis=0)
    owner = cluster[starts]
    firsts = np.flatnonzero(np.r_[True, np.diff(owner) != 0])
    parts = (n_d, np.ones_like(n_d), n_d**2, s_d, s_d**2, n_d[:, None] * s_d)
    for total, part in zip(found, parts, strict=True):
        total[owner[firsts]] += np.add.reduceat(part, firsts, axis=0)


def profile(found: Sums) -> Profile:
    """Mean m = sum s_d / n, and its error: sqrt(D/(D - 1) sum_d (s_d - n_d m)^2) / n."""
    with np.errstate(divide="ignore", invalid="ignore"):
        n = found.count[:, None]
        mean = found.total / n
        residual = found.squared_total - 2 * mean * found.counted_total + mean**2 * found.squared_count[:, None]
        documents = found.n_documents[:, None]
        error = np.sqrt(np.maximum(residual, 0.0) * documents / (documents - 1)) / n
    return Profile(mean, np.where(documents > 1, error, np.nan))


def row_correlation(
    a: Float64[np.ndarray, "clusters columns"], b: Float64[np.ndarray, "clusters columns"]
) -> Float64[np.ndarray, " clusters"]:
    """Pearson correlation over columns of each row of `a` with that of `b`; nan where one is constant or missing."""
    centred_a, centred_b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norm = np.sqrt((centred_a**2).sum(axis=1) * (centred_b**2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (centred_a * centred_b).sum(axis=1) / np.where(norm > 0, norm, np.nan)
