"""The clustered tokens as the site numbers them: contexts and documents from zero, members by cluster and rank.

A token is predicted from the tokens before it, so the first of a context is none; all contexts have one length. What is
known of a context is held for all of them; what is known of a token is read shard by shard.
"""

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import numpy as np
import polars as pl
from jaxtyping import Float32, Int

from susc_pipeline import schema
from susc_pipeline.buckets import Buckets

MEMBER = np.dtype([("context", "<i4"), ("position", "<i4"), ("cluster", "<i4")])
UNCLUSTERED = -1
T = TypeVar("T", "Tokens", "Differences")


class Shards(NamedTuple):
    """Per-token tables by shard, not yet read; `truth` for those shards whose susceptibilities were sampled."""

    contexts: dict[str, pl.LazyFrame]
    predictions: dict[str, pl.LazyFrame]
    half_a: dict[str, pl.LazyFrame]
    """Predictions by even chains alone."""
    half_b: dict[str, pl.LazyFrame]
    """Predictions by odd chains alone."""
    whitened: dict[str, pl.LazyFrame]
    truth: dict[str, pl.LazyFrame]


class Corpus(NamedTuple):
    """All contexts in order of shard, numbered, without their text; the documents in order of name.

    `contexts` has the columns context, context_id, shard, document (a number) and start.
    """

    contexts: pl.DataFrame
    documents: list[str]
    n_positions: int

    @property
    def tokens_per_context(self) -> int:
        """Predicted tokens of a context."""
        return self.n_positions - 1


class Tokens(NamedTuple):
    """The predicted tokens of consecutive contexts, a row a context; the cluster is -1 where a token is in none."""

    token_ids: Int[np.ndarray, "contexts positions"]
    clusters: Int[np.ndarray, "contexts tokens"]
    losses: Float32[np.ndarray, "contexts tokens"]
    scores: Float32[np.ndarray, "contexts tokens pcs"]


class Differences(NamedTuple):
    """Errors of the scores of consecutive contexts."""

    difference: Float32[np.ndarray, "contexts tokens pcs"]


def corpus(contexts: dict[str, pl.LazyFrame]) -> Corpus:
    """The contexts of all shards."""
    columns = ["context_id", "document_id", "start"]
    frames = [contexts[shard].select(columns).collect().with_columns(shard=pl.lit(shard)) for shard in sorted(contexts)]
    frame = pl.concat(frames).with_row_index("context").with_columns(pl.col("context").cast(pl.Int64))
    documents = sorted(frame["document_id"].unique().to_list())
    numbers = pl.DataFrame({"document_id": documents, "document": np.arange(len(documents))})
    joined = frame.join(numbers, on="document_id", how="left", maintain_order="left").drop("document_id")
    first = contexts[min(contexts)].select("token_ids").head(1).collect()
    return Corpus(joined, documents, schema.token_ids(first).shape[1])


def members(table: pl.LazyFrame, found: Corpus, n_rows: int) -> Iterator[pl.DataFrame]:
    """The members of a clustering (schema.MEMBERS) with the numbers of their contexts, so many at a time.

    Raises:
        ValueError: they are not in order of cluster and rank.
    """
    numbers, last = found.contexts.select("context_id", "context"), -1
    for start in range(0, table.select(pl.len()).collect().item(), n_rows):
        rows = table.slice(start, n_rows).collect()
        place = rows["cluster"].to_numpy().astype(np.int64) << 32 | rows["rank"].to_numpy()
        if (np.diff(place, prepend=last) <= 0).any():
            raise ValueError("cluster_members must be in order of cluster and rank; materialize clusters again")
        last = place[-1]
        yield rows.join(numbers, on="context_id", how="left", maintain_order="left")


def set_aside(rows: pl.DataFrame, found: Corpus, members: Buckets) -> None:
    """Put members under the shard that each is in."""
    shard = found.contexts["shard"].rle_id().to_numpy().astype(np.int64)
    values = np.zeros(rows.height, MEMBER)
    for name in MEMBER.names or ():
        values[name] = rows[name].to_numpy()
    members.add(shard[values["context"]], values)


def tokens(shards: Shards, found: Corpus, members: Buckets) -> Iterator[Tokens]:
    """The tokens of each shard in turn, with the cluster of each.

    Raises:
        ValueError: a shard's predictions are not of its contexts.
    """
    first = 0
    for number, shard in enumerate(sorted(shards.contexts)):
        token_ids = schema.token_ids(shards.contexts[shard].select("token_ids").collect())
        shape = (len(token_ids), found.tokens_per_context)
        predicted = per_token(shards.predictions[shard], found, shard, ["loss", "prediction"])
        rows, clusters = members.whole(number), np.full(shape, UNCLUSTERED, np.int32)
        clusters[rows["context"] - first, rows["position"] - 1] = rows["cluster"]
        scores = predicted["prediction"].to_numpy()
        yield Tokens(token_ids, clusters, predicted["loss"].to_numpy().reshape(shape), scores.reshape(*shape, -1))
        first += len(token_ids)


def differences(shards: Shards, found: Corpus) -> Iterator[Differences]:
    """Half the difference of each shard's scores by even and by odd chains, which share nothing: the error of the scores."""
    for shard in sorted(shards.contexts):
        even, odd = (
            per_token(table[shard], found, shard, ["prediction"])["prediction"].to_numpy()
            for table in (shards.half_a, shards.half_b)
        )
        difference = (even - odd) / 2
        yield Differences(difference.reshape(-1, found.tokens_per_context, difference.shape[1]))


def batches(parts: Iterator[T], n_contexts: int) -> Iterator[T]:
    """The same tokens, so many contexts at a time; the last batch has fewer."""
    rest: T | None = None
    for part in parts:
        rest = part if rest is None else part._make(np.concatenate(pair) for pair in zip(rest, part))
        n_whole = len(rest[0]) // n_contexts * n_contexts
        for start in range(0, n_whole, n_contexts):
            yield rest._make(values[start : start + n_contexts] for values in rest)
        rest = rest._make(values[n_whole:] for values in rest)
    if rest is not None and len(rest[0]):
        yield rest


def per_token(table: pl.LazyFrame, found: Corpus, shard: str, columns: list[str]) -> pl.DataFrame:
    """Columns of a shard's per-token table, whose rows are the predicted tokens of its contexts in order.

    Raises:
        ValueError: they are not.
    """
    contexts = found.contexts.filter(shard=shard)["context_id"].to_numpy()
    frame = table.select("context_id", "position", *columns).collect()
    expected = np.repeat(contexts, found.tokens_per_context), np.tile(np.arange(1, found.n_positions), len(contexts))
    if not all(np.array_equal(frame[name], keys) for name, keys in zip(("context_id", "position"), expected)):
        raise ValueError(
            f"{columns[-1]} of {shard} must be of every token of its contexts, in order; materialize it again"
        )
    return frame.select(columns)


def source(document_id: str) -> str:
    """Where a document comes from: its outermost folder, or the document itself where it lies in none."""
    return document_id.partition("/")[0]
