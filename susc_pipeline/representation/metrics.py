"""How well predicted columns follow measured ones: Pearson r per column, its interval, and its null. No model, no fit.

Tokens of one document share their context, so the unit that is resampled or moved is the document, never the token.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int


class CorrelationInterval(NamedTuple):
    """Pearson r per column, with the ends of its bootstrap interval."""

    estimate: Float64[np.ndarray, " columns"]
    low: Float64[np.ndarray, " columns"]
    high: Float64[np.ndarray, " columns"]


def correlation_per_column(
    a: Float[np.ndarray, "tokens columns"], b: Float[np.ndarray, "tokens columns"]
) -> Float64[np.ndarray, " columns"]:
    """Pearson correlation across tokens of each column of `a` with the same column of `b`.

    Raises:
        ValueError: a value is not finite, or a column is constant.
    """
    return np.einsum("tc,tc->c", unit_columns(a), unit_columns(b))


def unit_columns(x: Float[np.ndarray, "tokens columns"]) -> Float64[np.ndarray, "tokens columns"]:
    """Columns centred and divided by their norm, so that a correlation is a sum of products."""
    if not np.isfinite(x).all():
        raise ValueError(f"a correlation needs finite values, got {int(np.sum(~np.isfinite(x)))} nan or infinite")
    mean = x.mean(axis=0, dtype=np.float64)
    centred = x - mean
    norm = np.sqrt(np.einsum("tc,tc->c", centred, centred))
    # Rounding of the mean leaves about len(x) * eps of each of len(x) equal values.
    rounding = len(x) ** 1.5 * np.finfo(np.float64).eps * np.abs(mean)
    if (norm <= rounding).any():
        columns = np.flatnonzero(norm <= rounding).tolist()
        raise ValueError(f"a correlation needs columns that vary, got constant columns {columns}; drop them")
    return centred / norm


def unexplained_share(predicted: Float[np.ndarray, "tokens pcs"], targets: Float[np.ndarray, "tokens pcs"]) -> float:
    """Share of the targets' variance that remains when the prediction of each PC is given its best scale and offset.

    1 - (sum over PCs of max(covariance, 0)^2 / predicted variance) / (sum over PCs of the targets' variance); nan where
    a prediction is not finite. Scale does not count, because whitening sets it anew;
    in the plain squared error the noise that every model learns from its training shards hides that the correlation
    still rises, so that training would end after the first epoch.
    """
    if not np.isfinite(predicted).all():
        return math.nan
    predicted = predicted - predicted.mean(axis=0, dtype=np.float64)
    targets = targets - targets.mean(axis=0, dtype=np.float64)
    covariance = np.maximum(np.einsum("tp,tp->p", predicted, targets), 0.0)
    variance = np.einsum("tp,tp->p", predicted, predicted)
    explained = np.divide(covariance**2, variance, out=np.zeros_like(variance), where=covariance > 0)
    return float(1.0 - explained.sum() / np.einsum("tp,tp->", targets, targets))


def document_bootstrap(
    a: Float[np.ndarray, "tokens columns"],
    b: Float[np.ndarray, "tokens columns"],
    document_ids: Int[np.ndarray, " tokens"],
    rng: np.random.Generator,
    *,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> CorrelationInterval:
    """Pearson r per column with a percentile interval over documents drawn with replacement (Efron 1979).

    A resample needs only the sums of each document, weighted by how often it was drawn.
    """
    x, y = unit_columns(a), unit_columns(b)
    _, document = np.unique(document_ids, return_inverse=True)
    n_documents = int(document.max()) + 1
    if n_documents < 2:
        raise ValueError("a bootstrap over documents needs at least 2 documents, got 1; withhold more of them")
    drawn = rng.multinomial(n_documents, np.full(n_documents, 1 / n_documents), size=n_resamples).astype(np.float64)
    size, *sums = (drawn @ _sums(values, document) for values in (np.ones_like(x[:, :1]), x, y, x * x, y * y, x * y))
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (total / size for total in sums)
    variance = (mean_xx - mean_x**2) * (mean_yy - mean_y**2)
    resampled = (mean_xy - mean_x * mean_y) / np.sqrt(variance)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return CorrelationInterval(np.einsum("tc,tc->c", x, y), low, high)


def permutation_null(
    a: Float[np.ndarray, "tokens columns"],
    b: Float[np.ndarray, "tokens columns"],
    document_ids: Int[np.ndarray, " tokens"],
    rng: np.random.Generator,
    *,
    n_permutations: int = 200,
) -> Float64[np.ndarray, "permutations columns"]:
    """Correlations per column after the rows of `b` lost their tie to those of `a`.

    Documents are put whole into a random order and the rows then rolled by a random offset: neighbours stay neighbours,
    so that the null is as wide as their likeness makes it; the roll also parts the documents that the order left in place.
    """
    x, y = unit_columns(a), unit_columns(b)
    _, document = np.unique(document_ids, return_inverse=True)
    null = np.empty((n_permutations, x.shape[1]))
    for i in range(n_permutations):
        rank = rng.permutation(int(document.max()) + 1)
        rows = np.roll(np.argsort(rank[document], kind="stable"), rng.integers(len(x)))
        null[i] = np.einsum("tc,tc->c", x, y[rows])
    return null


def _sums(
    values: Float64[np.ndarray, "tokens columns"], document: Int[np.ndarray, " tokens"]
) -> Float64[np.ndarray, "documents columns"]:
    sums = np.zeros((int(document.max()) + 1, values.shape[1]))
    np.add.at(sums, document, values)
    return sums
