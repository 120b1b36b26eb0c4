"""What the site says of each cluster: its mean susceptibilities, its tokens, its neighbours. Files are written in site.py."""

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Float64, Int

from susc_pipeline.clustering import neighbors
from susc_pipeline.explorer import payload, profiles
from susc_pipeline.explorer.corpus import Members, Shards
from susc_pipeline.explorer.profiles import Profile, Sums
from susc_pipeline.representation.pca import PCABasis

N_TOKENS_LISTED = 40
N_SOURCES_LISTED = 8
N_NEAREST = 12
MIN_MEASURED = 5
LOSS_EDGES = np.append(np.arange(0.0, 12.5, 0.5), np.inf)


class Columns(NamedTuple):
    """Places of the quantities among the columns of a profile."""

    components: slice
    pcs: slice
    loss: slice
    whitened: slice

    def of(self, profile: Profile, name: str) -> Profile:
        """Mean and error of one quantity."""
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
    """Everything about all clusters that is a number for each."""

    profile: Profile
    columns: Columns
    measured: Measured
    nearest: neighbors.Neighbors
    loss_histogram: Int[np.ndarray, "clusters bins"]


def cards(shards: Shards, members: Members, basis: PCABasis, *, n_clusters: int) -> Cards:
    """The numbers of every cluster, shard by shard.

    Components are in standard deviations over the tokens behind the basis, from their mean: a predicted score times the
    axes. Those of sampled susceptibilities likewise.
    """
    found: Sums | None = None
    histogram = np.zeros((n_clusters, len(LOSS_EDGES) - 1), dtype=np.int64)
    columns = None
    for shard in sorted(shards.predictions):
        rows = members.in_shard(shard)
        frame = members.select(shards.predictions[shard], shard, ["loss", "prediction"])
        scores, loss = frame["prediction"].to_numpy().astype(np.float64), frame["loss"].to_numpy()
        whitened = members.select(shards.whitened[shard], shard, ["whitened"])["whitened"].to_numpy()
        parts = [scores @ basis.components, scores, loss[:, None], whitened]
        columns = Columns(*_slices([part.shape[1] for part in parts]))
        values = np.concatenate(parts, axis=1)
        found = profiles.empty(n_clusters, values.shape[1]) if found is None else found
        profiles.add(found, values, rows["cluster"].to_numpy(), rows["document"].to_numpy())
        bins = np.clip(np.digitize(loss, LOSS_EDGES) - 1, 0, histogram.shape[1] - 1)
        np.add.at(histogram, (rows["cluster"].to_numpy(), bins), 1)
    if found is None or columns is None:
        raise ValueError("the explorer needs predicted susceptibilities of at least one shard, got none")
    profile = profiles.profile(found)
    return Cards(
        profile,
        columns,
        measured(shards, members, basis, n_clusters=n_clusters),
        nearest_clusters(columns.of(profile, "whitened").mean),
        histogram,
    )


def measured(shards: Shards, members: Members, basis: PCABasis, *, n_clusters: int) -> Measured:
    """Sampled and predicted susceptibilities of the members that have both."""
    width = len(basis.mean)
    found = profiles.empty(n_clusters, 4 * width)
    for shard in sorted(shards.truth):
        rows = members.in_shard(shard)
        sampled = members.select(shards.truth[shard], shard, ["susceptibility", "half_a", "half_b"])
        parts = [(sampled[name].to_numpy() - basis.mean) / basis.scale for name in sampled.columns]
        scores = members.select(shards.predictions[shard], shard, ["prediction"])["prediction"].to_numpy()
        values = np.concatenate([*parts, scores.astype(np.float64) @ basis.components], axis=1)
        profiles.add(found, values, rows["cluster"].to_numpy(), rows["document"].to_numpy())
    profile = profiles.profile(found)
    sampled, half_a, half_b, predicted = (
        Profile(*(one[:, number * width : (number + 1) * width] for one in profile)) for number in range(4)
    )
    enough = found.count >= MIN_MEASURED
    halves = profiles.row_correlation(half_a.mean, half_b.mean)
    return Measured(
        found.count.astype(np.int64),
        sampled,
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


def listed(frame: pl.DataFrame, column: str, limit: int, n_clusters: int) -> list[list[tuple[Any, int]]]:
    """For each cluster its most frequent values of a column, with their counts; ties in order of value."""
    counted = frame.group_by("cluster", column).len().sort(["cluster", "len", column], descending=[False, True, False])
    top = counted.group_by("cluster", maintain_order=True).head(limit)
    result: list[list[tuple[Any, int]]] = [[] for _ in range(n_clusters)]
    for cluster, value, count in top.select("cluster", column, "len").iter_rows():
        result[cluster].append((value, count))
    return result


def vectors(cards: Cards, rows: slice) -> dict[str, object]:
    """Means and errors of some clusters as matrices, a row each."""
    of = cards.columns.of
    found = {name: of(cards.profile, name) for name in ("components", "pcs")}
    found |= {"sampled": cards.measured.sampled, "predicted": cards.measured.predicted}
    return {
        name: {"mean": payload.quantized(one.mean[rows]), "error": payload.quantized(one.standard_error[rows])}
        for name, one in found.items()
    }


def card(cards: Cards, cluster: int) -> dict[str, object]:
    """The numbers of one cluster that are no vectors."""
    loss, measured = cards.columns.of(cards.profile, "loss"), cards.measured
    nearest = zip(cards.nearest.indices[cluster].tolist(), cards.nearest.distances[cluster].tolist(), strict=True)
    return {
        "loss": [_plain(float(one[cluster, 0])) for one in loss],
        "lossHistogram": cards.loss_histogram[cluster].tolist(),
        "measured": int(measured.count[cluster]),
        "agreement": _plain(float(measured.agreement[cluster])),
        "reliability": _plain(float(measured.reliability[cluster])),
        "nearest": [[other, _plain(distance)] for other, distance in nearest],
    }


def _plain(value: float) -> float | None:
    """The number with four significant digits, or nothing where it is missing."""
    return float(f"{value:.4g}") if np.isfinite(value) else None


def _slices(widths: list[int]) -> list[slice]:
    ends = np.cumsum(widths).tolist()
    return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
