"""What the site says of each cluster: its mean susceptibilities, its tokens, its neighbours. Files are written in site.py."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Float64, Int

from susc_pipeline.clustering import cluster_profiles, neighbors, profiles
from susc_pipeline.clustering.profiles import Profile
from susc_pipeline.explorer import payload
from susc_pipeline.explorer.shard_pass import CHUNK, Gathered
from susc_pipeline.representation.pca import PCABasis

N_TOKENS_LISTED = 40
N_SOURCES_LISTED = 8
N_NEAREST = 12
MIN_MEASURED = 5
ROWS_AT_ONCE = 4096
COUNTS_AT_ONCE = 1 << 18


class Columns(NamedTuple):
    """Places of the quantities among the columns of a profile."""

    components: slice
    pcs: slice
    loss: slice

    def of(self, profile: Profile, name: str) -> Profile:
        """Mean, error and interval of one quantity."""
        return Profile(*(one[:, getattr(self, name)] for one in profile))


class Measured(NamedTuple):
    """Of the members whose susceptibility was sampled: their number, the sampled mean, the predicted mean, and r of both.

    `reliability` is the correlation over components of the means from the two halves of the chains, Spearman-Brown
    corrected; nan below five members.
    """

    count: Int[np.ndarray, " clusters"]
    sampled: Profile
    predicted: Profile
    agreement: Float64[np.ndarray, " clusters"]
    reliability: Float64[np.ndarray, " clusters"]


class Cards(NamedTuple):
    """Everything about some clusters, from number `first` on, that is a number for each."""

    first: int
    profile: Profile
    columns: Columns
    measured: Measured
    loss_histogram: Int[np.ndarray, "clusters bins"]


def cards(found: Gathered, basis: PCABasis, of_components: pl.LazyFrame, chunk: int) -> Cards:
    """The numbers of the clusters of a chunk; those of components stand in the table of schema.CLUSTER_PROFILES.

    Raises:
        ValueError: the table is of other clusters or components.
    """
    first = chunk * CHUNK
    histogram = found.loss_histogram[first : first + CHUNK]
    n_pcs, n_components = basis.components.shape
    sums = profiles.empty(len(histogram), 2 * n_pcs + 1)
    for rows in found.documents.read(chunk, ROWS_AT_ONCE):
        profiles.add(sums, rows["cluster"] - first, rows["count"], rows["total"].astype(np.float64))
    both = profiles.profile(sums)
    differences = np.pad(both.mean[:, n_pcs + 1 :], ((0, 0), (0, 1)))  # none of the loss
    others = profiles.widened(Profile(*(one[:, : n_pcs + 1] for one in both)), differences)
    table = of_components.slice(first * n_components, len(histogram) * n_components).collect()
    keys = np.divmod(np.arange(table.height) + first * n_components, n_components)
    expected = len(histogram) * n_components
    if table.height != expected or any((table[n] != k).any() for n, k in zip(("cluster", "component"), keys)):
        raise ValueError("cluster_profiles must be of every cluster and component, in order; materialize it again")
    own = cluster_profiles.profile_of(table, n_components)
    profile = Profile(*(np.concatenate(pair, axis=1) for pair in zip(own, others, strict=True)))
    columns = Columns(*_slices([n_components, n_pcs, 1]))
    return Cards(first, profile, columns, measured(found, basis, chunk), histogram)


def measured(found: Gathered, basis: PCABasis, chunk: int) -> Measured:
    """Sampled and predicted susceptibilities of the members that have both."""
    first, width = chunk * CHUNK, len(basis.mean)
    sums = profiles.empty(min(CHUNK, len(found.centres) - first), 4 * width)
    for rows in found.sampled.read(chunk, ROWS_AT_ONCE):
        total = rows["total"].astype(np.float64)
        values = np.concatenate([total[:, : 3 * width], total[:, 3 * width :] @ basis.components], axis=1)
        profiles.add(sums, rows["cluster"] - first, rows["count"], values)
    profile = profiles.profile(sums)
    sampled, half_a, half_b, predicted = (
        Profile(*(one[:, number * width : (number + 1) * width] for one in profile)) for number in range(4)
    )
    enough = sums.count >= MIN_MEASURED
    halves = profiles.row_correlation(half_a.mean, half_b.mean)
    return Measured(
        sums.count.astype(np.int64),
        profiles.widened(sampled, (half_a.mean - half_b.mean) / 2),
        predicted,
        np.where(enough, profiles.row_correlation(sampled.mean, predicted.mean), np.nan),
        np.where(enough, 2 * halves / (1 + np.maximum(halves, -0.99)), np.nan),
    )


def nearest_clusters(centres: Float[np.ndarray, "clusters directions"]) -> neighbors.Neighbors:
    """The clusters whose mean whitened vectors are nearest to each one's, with the distance."""
    n_nearest = min(N_NEAREST, len(centres) - 1)
    if n_nearest < 1:
        return neighbors.Neighbors(np.zeros((len(centres), 0), np.int64), np.zeros((len(centres), 0), np.float32))
    return neighbors.exact_neighbors(centres.astype(np.float32), n_nearest)


def dominant_component(cards: Cards) -> tuple[Int[np.ndarray, " clusters"], Float64[np.ndarray, " clusters"]]:
    """The component farthest from its mean over tokens, and how far, in standard deviations."""
    mean = np.nan_to_num(cards.columns.of(cards.profile, "components").mean)
    chosen = np.abs(mean).argmax(axis=1)
    return chosen, mean[np.arange(len(mean)), chosen]


class Lists(NamedTuple):
    """Of each cluster of a chunk: its most frequent tokens, sources and documents; `counts` of all its tokens."""

    tokens: list[list[tuple[Any, int]]]
    sources: list[list[tuple[Any, int]]]
    documents: list[list[tuple[Any, int]]]
    n_documents: list[int]
    counts: pl.DataFrame


def lists(found: Gathered, sources: pl.DataFrame, chunk: int) -> Lists:
    """What the clusters of a chunk are made of; `sources` has the source of each document."""
    clusters = range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(found.centres)))
    tokens = counted(found.tokens.read(chunk, COUNTS_AT_ONCE), "token")
    documents = counted(found.documents.read(chunk, ROWS_AT_ONCE), "document")
    from_sources = documents.join(sources, on="document").group_by("cluster", "source").agg(pl.col("count").sum())
    n_documents = np.bincount(documents["cluster"].to_numpy() - clusters.start, minlength=len(clusters))
    return Lists(
        listed(tokens, "token", N_TOKENS_LISTED, clusters),
        listed(from_sources, "source", N_SOURCES_LISTED, clusters),
        listed(documents, "document", N_SOURCES_LISTED, clusters),
        n_documents.tolist(),
        tokens,
    )


def counted(blocks: Iterator[np.ndarray], column: str) -> pl.DataFrame:
    """How many members each cluster has of each value of a column, from rows that count some of them."""
    held = pl.DataFrame(schema={"cluster": pl.Int32, column: pl.Int32, "count": pl.Int64})
    for rows in blocks:
        block = pl.DataFrame({name: rows[name].astype(np.int64) for name in held.columns}, schema=held.schema)
        held = pl.concat([held, block]).group_by("cluster", column).agg(pl.col("count").sum())
    return held


def listed(counts: pl.DataFrame, column: str, limit: int, clusters: range) -> list[list[tuple[Any, int]]]:
    """For each cluster its most frequent values of a column, with their counts; ties in order of value."""
    ordered = counts.sort(["cluster", "count", column], descending=[False, True, False])
    top = ordered.group_by("cluster", maintain_order=True).head(limit)
    result: list[list[tuple[Any, int]]] = [[] for _ in clusters]
    for cluster, value, count in top.select("cluster", column, "count").iter_rows():
        result[cluster - clusters.start].append((value, count))
    return result


def vectors(cards: Cards, rows: slice) -> dict[str, object]:
    """Means and halves of their 95 % intervals of some clusters as matrices, a row each."""
    of = cards.columns.of
    found = {name: of(cards.profile, name) for name in ("components", "pcs")}
    found |= {"sampled": cards.measured.sampled, "predicted": cards.measured.predicted}
    return {
        name: {"mean": payload.quantized(one.mean[rows]), "half": payload.quantized(one.half_width[rows])}
        for name, one in found.items()
    }


def card(cards: Cards, row: int, nearest: neighbors.Neighbors) -> dict[str, object]:
    """The numbers of one cluster that are no vectors."""
    loss, measured, cluster = cards.columns.of(cards.profile, "loss"), cards.measured, cards.first + row
    near = zip(nearest.indices[cluster].tolist(), nearest.distances[cluster].tolist(), strict=True)
    return {
        "loss": [_plain(float(one[row, 0])) for one in (loss.mean, loss.half_width)],
        "lossHistogram": cards.loss_histogram[row].tolist(),
        "measured": int(measured.count[row]),
        "agreement": _plain(float(measured.agreement[row])),
        "reliability": _plain(float(measured.reliability[row])),
        "nearest": [[other, _plain(distance)] for other, distance in near],
    }


def label(known: dict[str, Any]) -> dict[str, Any]:
    """What a card says of the label: words, half of the gain's interval, what was scored, occurrences of the tokens."""
    half = None if known["gain_low"] is None else (known["gain_high"] - known["gain_low"]) / 2
    return {
        "label": known["label"],
        "tokenLabel": known["token_label"],
        "gainHalf": half if half is None or np.isfinite(half) else None,
        "scored": [known["n_members_scored"], known["n_documents_scored"]],
        "nTokens": known["n_tokens"],
        "occurrences": list(zip(known["token_ids"], known["token_occurrences"], strict=True)),
    }


def _plain(value: float) -> float | None:
    """The number with four significant digits, or nothing where it is missing."""
    return float(f"{value:.4g}") if np.isfinite(value) else None


def _slices(widths: list[int]) -> list[slice]:
    ends = np.cumsum(widths).tolist()
    return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
