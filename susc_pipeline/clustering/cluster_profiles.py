"""The table of cluster profiles: how each cluster responds to each component, with its error. Sums and errors are in profiles.py.

A response is the predicted score times the axes of the basis, in standard deviations over tokens from the mean token. Tokens come
by shard and are wanted by cluster, so sums by cluster and document are set aside on disk.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float32

from susc_pipeline import schema
from susc_pipeline.buckets import Buckets
from susc_pipeline.clustering import profiles
from susc_pipeline.clustering.profiles import Profile, Sums
from susc_pipeline.representation.pca import PCABasis

CHUNK = 512  # clusters of one file
ROWS_AT_ONCE = 4096
KEYS = ["context_id", "position"]


class Scores(NamedTuple):
    """Scores of the tokens of every shard, not yet read: by all chains, and by either half of them."""

    whole: dict[str, pl.LazyFrame]
    half_a: dict[str, pl.LazyFrame]
    half_b: dict[str, pl.LazyFrame]


def table(
    scores: Scores, members: pl.DataFrame, basis: PCABasis, names: list[str], *, n_clusters: int, folder: Path
) -> pl.DataFrame:
    """A row for each cluster and component, as schema.CLUSTER_PROFILES; numbers are missing where a cluster has one document.

    Args:
        scores: of the same tokens.
        members: of the clusters, as schema.MEMBERS.
        basis: that the scores are along.
        names: of the components, in order.
        n_clusters: number of clusters, numbered from zero.
        folder: that temporary files may be written to.

    Raises:
        ValueError: a member has no score.
    """
    n_pcs, n_components = basis.components.shape
    sums_by_document = Buckets(folder, profiles.row_kind(2 * n_pcs))
    numbers = _document_numbers(scores)
    for shard in sorted(scores.whole):
        _set_aside(sums_by_document, scores, members.filter(shard=shard), numbers, shard)
    sums = [_sums(sums_by_document, basis, first, n_clusters) for first in range(0, max(n_clusters, 1), CHUNK)]
    both = [profiles.profile(one) for one in sums]
    own = Profile(*(np.concatenate(parts)[:, :n_components] for parts in zip(*both, strict=True)))
    found = profiles.widened(own, np.concatenate([one.mean[:, n_components:] for one in both]))
    counts = {name: np.concatenate([getattr(one, name) for one in sums]) for name in ("count", "n_documents")}
    columns = {
        "cluster": np.repeat(np.arange(n_clusters), n_components),
        "component": np.tile(np.arange(n_components), n_clusters),
        "name": pl.Series(names * n_clusters, dtype=pl.String),
        "n_members": np.repeat(counts["count"], n_components),
        "n_documents": np.repeat(counts["n_documents"], n_components),
        **{name: values.ravel() for name, values in found._asdict().items()},
    }
    frame = pl.DataFrame(columns).select(pl.col(name).cast(kind) for name, kind in schema.CLUSTER_PROFILES.items())
    return frame.with_columns(pl.col(*Profile._fields).fill_nan(None))


def profile_of(rows: pl.DataFrame, n_components: int) -> Profile:
    """The numbers of some whole clusters of the table, a row a cluster; nan where they are missing."""
    return Profile(*(rows[name].to_numpy().reshape(-1, n_components) for name in Profile._fields))


def _document_numbers(scores: Scores) -> pl.DataFrame:
    """The documents in order of name, numbered: sums over them do not depend on the order of shards."""
    found = [frame.select("document_id").unique().collect() for frame in scores.whole.values()]
    return pl.concat(found).unique().sort("document_id").with_row_index("document")


def _set_aside(buckets: Buckets, scores: Scores, members: pl.DataFrame, numbers: pl.DataFrame, shard: str) -> None:
    """Put the sums of a shard's members, by cluster and document, into the file of their cluster."""
    tokens = scores.whole[shard].select(*KEYS, "document_id").collect()
    chosen = tokens.join(members.select(*KEYS, "cluster"), on=KEYS, how="inner", maintain_order="left")
    chosen = chosen.join(numbers, on="document_id", how="left", maintain_order="left")
    whole, half_a, half_b = (_of_tokens(one[shard], chosen, shard) for one in scores)
    cluster, document = (chosen[name].to_numpy().astype(np.int32) for name in ("cluster", "document"))
    rows = profiles.grouped(cluster, document, whole, (half_a - half_b) / 2)
    buckets.add(rows["cluster"] // CHUNK, rows)


def _of_tokens(frame: pl.LazyFrame, chosen: pl.DataFrame, shard: str) -> Float32[np.ndarray, "members pcs"]:
    own = frame.select(*KEYS, "prediction").collect()
    found = chosen.select(KEYS).join(own, on=KEYS, how="left", maintain_order="left")["prediction"]
    if found.null_count():
        raise ValueError(f"{found.null_count()} members of clusters in {shard} have no score; materialize it again")
    return schema.matrix(found)


def _sums(buckets: Buckets, basis: PCABasis, first: int, n_clusters: int) -> Sums:
    """Of a file's clusters: sums of the responses to all components, and of half their difference by the halves of the chains."""
    found = profiles.empty(min(CHUNK, n_clusters - first), 2 * basis.components.shape[1])
    for rows in buckets.read(first // CHUNK, ROWS_AT_ONCE):
        total = rows["total"].astype(np.float64)
        parts = [half @ basis.components for half in np.split(total, 2, axis=1)]
        profiles.add(found, rows["cluster"] - first, rows["count"], np.concatenate(parts, axis=1))
    return found
