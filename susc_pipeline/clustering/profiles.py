"""Mean vectors of clusters with their errors, from sums that grow document by document. No text, no files.

Tokens of one document are alike, so the unit of the error is the document: the standard error of a mean is the
cluster-robust one (Liang and Zeger 1986), with the correction D/(D - 1) for D documents. What all documents share, the error
of the response directions and of the draws, is seen in how the halves of the chains differ, and is added.
"""

from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Float64, Int, Shaped


class Sums(NamedTuple):
    """Of each cluster: members, documents, the sum of the vectors, and what the error over documents needs."""

    count: Float64[np.ndarray, " clusters"]
    n_documents: Float64[np.ndarray, " clusters"]
    squared_count: Float64[np.ndarray, " clusters"]
    total: Float64[np.ndarray, "clusters columns"]
    squared_total: Float64[np.ndarray, "clusters columns"]
    counted_total: Float64[np.ndarray, "clusters columns"]


class Profile(NamedTuple):
    """Mean vector of each cluster, its standard error, and half of its 95 % interval: Student's t over documents, and chains.

    Missing where there is no member, or but one document. With few documents the interval is much wider than 1.96 errors.
    """

    mean: Float64[np.ndarray, "clusters columns"]
    standard_error: Float64[np.ndarray, "clusters columns"]
    half_width: Float64[np.ndarray, "clusters columns"]


def empty(n_clusters: int, n_columns: int) -> Sums:
    """Sums over no member."""
    counts, totals = (n_clusters,), (n_clusters, n_columns)
    return Sums(*(np.zeros(shape) for shape in 3 * [counts] + 3 * [totals]))


def row_kind(n_columns: int) -> np.dtype:
    """The structured type of a row that stands for the members of one cluster in one document: `total` is their sum."""
    return np.dtype([("cluster", "<i4"), ("document", "<i4"), ("count", "<i4"), ("total", "<f4", (n_columns,))])


def grouped(
    cluster: Int[np.ndarray, " members"], document: Int[np.ndarray, " members"], *parts: Float[np.ndarray, "members _"]
) -> Shaped[np.ndarray, " groups"]:
    """The members, each cluster's of each document in one row (row_kind); their columns are those of the parts in turn."""
    order = np.lexsort((document, cluster))
    cluster, document = cluster[order], document[order]
    changes = (np.diff(cluster, prepend=-1) != 0) | (np.diff(document, prepend=-1) != 0)
    starts = np.flatnonzero(changes)
    rows = np.zeros(len(starts), row_kind(sum(part.shape[1] for part in parts)))
    rows["cluster"], rows["document"] = cluster[starts], document[starts]
    rows["count"] = np.diff(starts, append=len(cluster))
    first = 0
    for part in parts if len(starts) else ():
        end = first + part.shape[1]
        rows["total"][:, first:end] = np.add.reduceat(part[order], starts, axis=0, dtype=np.float64)
        first = end
    return rows


def add(
    found: Sums,
    cluster: Int[np.ndarray, " groups"],
    count: Int[np.ndarray, " groups"],
    total: Float64[np.ndarray, "groups columns"],
) -> None:
    """Add members to the sums, in place; all of a cluster's members in a document are one group.

    With s_d the sum of the vectors of a cluster's members in document d, and n_d their number, what is summed over d is
    n_d, 1, n_d^2, s_d, s_d^2 and n_d s_d.
    """
    if not len(cluster):
        return
    order = np.argsort(cluster, kind="stable")
    owner, n_d, s_d = cluster[order], count[order].astype(np.float64), total[order]
    firsts = np.flatnonzero(np.diff(owner, prepend=-1))
    parts = (n_d, np.ones_like(n_d), n_d**2, s_d, s_d**2, n_d[:, None] * s_d)
    for sums, part in zip(found, parts, strict=True):
        sums[owner[firsts]] += np.add.reduceat(part, firsts, axis=0)


def profile(found: Sums) -> Profile:
    """Mean m = sum s_d / n, and its error: sqrt(D/(D - 1) sum_d (s_d - n_d m)^2) / n."""
    with np.errstate(divide="ignore", invalid="ignore"):
        n = found.count[:, None]
        mean = found.total / n
        residual = found.squared_total - 2 * mean * found.counted_total + mean**2 * found.squared_count[:, None]
        documents = found.n_documents[:, None]
        error = np.sqrt(np.maximum(residual, 0.0) * documents / (documents - 1)) / n
    error = np.where(documents > 1, error, np.nan)
    return Profile(mean, error, error * scipy.stats.t.ppf(0.975, np.maximum(documents - 1, 1)))


def widened(found: Profile, differences: Float64[np.ndarray, "clusters columns"]) -> Profile:
    """The profile with the error of the chains in its errors: that of a column is the same for all clusters.

    Half the difference of two halves that share nothing varies as much as their mean. A cluster alone has one such
    difference, so their root mean square over all clusters is taken.

    Args:
        found: errors over documents.
        differences: of each cluster's means by either half, halved; missing where a cluster has no member.
    """
    known = np.isfinite(differences)
    squares = np.square(np.where(known, differences, 0.0)).sum(axis=0)
    of_chains = np.sqrt(squares / np.maximum(known.sum(axis=0), 1))
    quantile = scipy.stats.norm.ppf(0.975)
    return Profile(
        found.mean, np.hypot(found.standard_error, of_chains), np.hypot(found.half_width, quantile * of_chains)
    )


def row_correlation(
    a: Float64[np.ndarray, "clusters columns"], b: Float64[np.ndarray, "clusters columns"]
) -> Float64[np.ndarray, " clusters"]:
    """Pearson correlation over columns of each row of `a` with that of `b`; nan where one is constant or missing."""
    centred_a, centred_b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norm = np.sqrt((centred_a**2).sum(axis=1) * (centred_b**2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (centred_a * centred_b).sum(axis=1) / np.where(norm > 0, norm, np.nan)
