"""Tokens and cluster members of a finished run, by what other runs share: document and place in it."""

from typing import NamedTuple

import polars as pl

from resources import tables
from resources.storage import Store
from susc_pipeline import schema


class ClusteredTokens(NamedTuple):
    """All tokens of a run, and those in clusters."""

    tokens: pl.DataFrame
    members: pl.DataFrame


def read(store: Store) -> ClusteredTokens:
    """The tokens of a finished run that its clusters were found among, and the members of its clusters.

    Raises:
        StoreError: the run has no clusters, or a file of it is not as it was written.
    """
    sources = [
        source.split("/") for source in store.checked("cluster_members").inputs if source.startswith("token_shards/")
    ]
    for asset, shard in sources:
        store.checked(asset, shard)
    contexts = pl.concat([tables.scan(store.table(asset, shard)).collect() for asset, shard in sorted(sources)])
    places = contexts.select("context_id", "start")
    tokens = schema.token_key_frame(contexts).join(places, on="context_id", how="left", maintain_order="left")
    placed = tokens.with_columns(offset=pl.col("start") + pl.col("position"))
    members = tables.scan(store.table("cluster_members")).select("cluster", "context_id", "position").collect()
    found = members.join(placed, on=["context_id", "position"], how="left", maintain_order="left")
    keys = ["document_id", "offset"]
    return ClusteredTokens(placed.select(keys), found.select("cluster", *keys))
