"""Clusters as tables, and their tokens as text to read. Finding clusters is in search.py."""

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from susc_pipeline import schema
from susc_pipeline.clustering.search import Clustering
from susc_pipeline.schema import StackedTokens


def cluster_table(
    clustering: Clustering, reproducibility: Float[np.ndarray, " clusters"], tokens: StackedTokens
) -> pl.DataFrame:
    """One row a cluster, as schema.CLUSTERS, numbered by rising conductance."""
    order = cluster_order(clustering)
    seeds = tokens.keys[clustering.seed[order].tolist()]
    columns = {
        "cluster": np.arange(len(order)),
        "size": clustering.size[order],
        "volume": clustering.volume[order],
        "conductance": clustering.conductance[order],
        "density": clustering.density[order],
        "reproducibility": reproducibility[order],
        "found_by_members": clustering.met[order],
        "parent_size": clustering.parent_size[order],
        "parent_conductance": clustering.parent_conductance[order],
        "seed_context_id": seeds["context_id"],
        "seed_position": seeds["position"],
    }
    return pl.DataFrame(columns, schema=schema.CLUSTERS).with_columns(pl.col("parent_conductance").fill_nan(None))


def member_table(clustering: Clustering, tokens: StackedTokens) -> pl.DataFrame:
    """One row a member, as schema.MEMBERS, in order of cluster and rank."""
    frames = []
    for number, old in enumerate(cluster_order(clustering)):
        rows = clustering.members[old].tolist()
        keys = tokens.keys[rows]
        columns = {
            "cluster": [number] * len(rows),
            "rank": np.arange(len(rows)),
            "shard": tokens.shard[rows],
            "context_id": keys["context_id"],
            "position": keys["position"],
        }
        frames.append(pl.DataFrame(columns, schema=schema.MEMBERS))
    return pl.concat([pl.DataFrame(schema=schema.MEMBERS), *frames])


def cluster_order(clustering: Clustering) -> np.ndarray:
    """Old numbers of the clusters by rising conductance."""
    return np.argsort(clustering.conductance, kind="stable")


class Example(NamedTuple):
    """A member token and the text around it."""

    before: str
    token: str
    after: str


def examples(
    members: pl.DataFrame,
    contexts: pl.DataFrame,
    texts: list[str],
    *,
    cluster: int,
    n_examples: int,
    n_around: int = 10,
) -> list[Example]:
    """The most central members of a cluster, at most one from each context, in their contexts.

    Args:
        members: as `member_table` makes it.
        contexts: as schema.CONTEXTS, of all shards.
        texts: readable text of each token id.
        cluster: its number.
        n_examples: how many.
        n_around: tokens shown before, and a third as many after.
    """
    chosen = members.filter(cluster=cluster).sort("rank").unique("context_id", keep="first", maintain_order=True)
    joined = chosen.head(n_examples).join(contexts, on="context_id", how="left", maintain_order="left")
    found = []
    for position, ids in joined.select("position", "token_ids").iter_rows():
        words = [texts[token] for token in ids]
        before, after = (
            words[max(0, position - n_around) : position],
            words[position + 1 : position + 1 + n_around // 3],
        )
        found.append(Example("".join(before), words[position], "".join(after)))
    return found


def labels(members: pl.DataFrame, tokens: StackedTokens) -> np.ndarray:
    """Cluster of each token, -1 where it is in none."""
    keys = tokens.keys.select("context_id", "position")
    joined = keys.join(
        members.select("context_id", "position", "cluster"),
        how="left",
        on=["context_id", "position"],
        maintain_order="left",
    )
    return joined["cluster"].fill_null(-1).to_numpy().astype(np.int32)
