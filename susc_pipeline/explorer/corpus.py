"""The clustered tokens as the site numbers them: contexts and documents from zero, members by cluster and rank.

A token is predicted from the tokens before it, so the first of a context is none; all contexts have one length.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int

from susc_pipeline import schema


class Shards(NamedTuple):
    """Per-token tables by shard, not yet read; `truth` for those shards whose susceptibilities were sampled."""

    contexts: dict[str, pl.LazyFrame]
    predictions: dict[str, pl.LazyFrame]
    whitened: dict[str, pl.LazyFrame]
    truth: dict[str, pl.LazyFrame]


class Corpus(NamedTuple):
    """All contexts in order of shard, numbered; the documents in order of name, and which of them each context is of."""

    contexts: pl.DataFrame
    token_ids: Int[np.ndarray, "contexts positions"]
    documents: list[str]

    @property
    def tokens_per_context(self) -> int:
        """Predicted tokens of a context."""
        return self.token_ids.shape[1] - 1


class Members(NamedTuple):
    """The members of all clusters, by cluster and rank, with the site's numbers."""

    frame: pl.DataFrame

    def in_shard(self, shard: str) -> pl.DataFrame:
        """Those of one shard."""
        return self.frame.filter(shard=shard)

    def select(self, tokens: pl.LazyFrame, shard: str, columns: list[str]) -> pl.DataFrame:
        """The columns of a per-token table for the members of a shard, a row each, in the order of `in_shard`."""
        keys = ["context_id", "position"]
        wanted = tokens.select(*keys, *columns).collect()
        joined = self.in_shard(shard).select(keys).join(wanted, on=keys, how="left", maintain_order="left")
        return joined.select(columns)


def corpus(contexts: dict[str, pl.LazyFrame]) -> Corpus:
    """The contexts of all shards."""
    frame = pl.concat([contexts[shard].with_columns(shard=pl.lit(shard)).collect() for shard in sorted(contexts)])
    documents = sorted(frame["document_id"].unique().to_list())
    numbers = pl.DataFrame({"document_id": documents, "document": np.arange(len(documents))})
    numbered = frame.with_row_index("context").with_columns(pl.col("context").cast(pl.Int64))
    joined = numbered.join(numbers, on="document_id", how="left", maintain_order="left")
    return Corpus(joined, schema.token_ids(joined), documents)


def members(table: pl.DataFrame, found: Corpus) -> Members:
    """The members of a clustering (schema.MEMBERS) with context, document and token id."""
    numbers = found.contexts.select("context_id", "context", "document")
    joined = table.sort("cluster", "rank").join(numbers, on="context_id", how="left", maintain_order="left")
    ids = found.token_ids[joined["context"].to_numpy(), joined["position"].to_numpy()]
    return Members(joined.with_columns(token_id=pl.Series(ids, dtype=pl.Int32)))


def labels(found: Members, corpus: Corpus) -> Int[np.ndarray, "contexts tokens"]:
    """Cluster of each predicted token, -1 where it is in none."""
    result = np.full((corpus.contexts.height, corpus.tokens_per_context), -1, dtype=np.int32)
    frame = found.frame
    result[frame["context"].to_numpy(), frame["position"].to_numpy() - 1] = frame["cluster"].to_numpy()
    return result


def source(document_id: str) -> str:
    """Where a document comes from: its outermost folder, or the document itself where it lies in none."""
    return document_id.partition("/")[0]


def batches(frames: dict[str, pl.LazyFrame], n_rows: int) -> Iterator[pl.DataFrame]:
    """The rows of all shards in their order, so many at a time; at most one shard is held."""
    rest: pl.DataFrame | None = None
    for shard in sorted(frames):
        loaded = frames[shard].collect()
        rest = loaded if rest is None else pl.concat([rest, loaded])
        while rest.height >= n_rows:
            yield rest.head(n_rows)
            rest = rest.slice(n_rows)
    if rest is not None and rest.height:
        yield rest
