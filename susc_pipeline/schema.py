"""The Polars schema of every stored table: the only place where column names are spelled.

Paths are in resources/storage.py. A token is keyed by its context and its position there; its loss and its
susceptibility are those of predicting it from the tokens before it. Losses are in nats.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int

DOCUMENTS = {
    "document_id": pl.String,
    "n_characters": pl.Int64,
    "sha256": pl.String,  # of the text in UTF-8
}
CONTEXTS = {
    "context_id": pl.Int64,  # unique in the experiment
    "document_id": pl.String,
    "start": pl.Int64,  # tokens of the document before the context
    "token_ids": pl.List(pl.Int32),
}
ROLE = {"role": pl.String}  # of a sampling context: minibatch or observable
TOKEN_KEY = {
    "context_id": pl.Int64,
    "position": pl.Int32,  # from 1: the first token of a context is not predicted
    "document_id": pl.String,
    "token_id": pl.Int32,
}
LOSS = {"loss": pl.Float32}  # of the token at the trained weights
CLUSTERS = {
    "cluster": pl.Int32,
    "size": pl.Int64,
    "volume": pl.Float64,
    "conductance": pl.Float64,
    "density": pl.Float64,
    "seed_stability": pl.Float64,  # share of looks from other members that find the cluster again
    "point_stability": pl.Float64,  # the same in graphs without a tenth of the points
    "chain_stability": pl.Float64,  # the same in the graph by one half of the chains
    "seed_context_id": pl.Int64,
    "seed_position": pl.Int32,
}
MEMBERS = {
    "cluster": pl.Int32,
    "rank": pl.Int32,  # 0 is the most central, by PageRank over degree
    "shard": pl.String,
    "context_id": pl.Int64,
    "position": pl.Int32,
}
AGREEMENT = {
    "first": pl.String,  # a clustering, by the space that it was found in
    "second": pl.String,
    "first_clusters": pl.Int64,
    "second_clusters": pl.Int64,
    "adjusted_rand_index": pl.Float64,  # unclustered tokens count as one more cluster of each
    "first_matched": pl.Float64,  # share of the first's clusters that have a match of Jaccard 1/2 in the second
    "second_matched": pl.Float64,
}
LAYOUT = {
    "shard": pl.String,
    "context_id": pl.Int64,
    "position": pl.Int32,
    "x": pl.Float32,  # of no unit: only nearness on the map means something
    "y": pl.Float32,
}
CALIBRATION = {
    "component": pl.String,
    "step_size": pl.Float64,
    "n_beta": pl.Float64,
    "localization": pl.Float64,
    "curvature": pl.Float64,  # largest Hessian eigenvalue at the trained weights, from below
    "max_step_size": pl.Float64,  # what the curvature allows; larger steps are divided
    "r_hat": pl.Float64,  # of the mean loss
    "effective_share": pl.Float64,  # effective sample size over the number of draws
    "rise": pl.Float64,  # of the mean loss over that at the trained weights, in nats
    "llc": pl.Float64,
    "llc_error": pl.Float64,
    "acceptance": pl.Float64,  # of a Metropolis test of the step
    "half_correlation": pl.Float64,  # over tokens, of the susceptibilities from two halves of the chains
    "verdict": pl.String,
    "remedy": pl.String,
}
CONTROL = {
    "component": pl.String,
    "correlation": pl.Float64,  # over tokens, of the susceptibility with that at n_beta = 0
    "reliability": pl.Float64,  # of the susceptibility, same tokens
    "control_reliability": pl.Float64,
    "disattenuated": pl.Float64,  # correlation over the root of both reliabilities
}
RELIABILITY = {
    "kind": pl.String,  # component or pc
    "name": pl.String,
    "half_correlation": pl.Float64,
    "reliability": pl.Float64,  # Spearman-Brown corrected, of all draws
    "ceiling": pl.Float64,  # square root of reliability
}


SLOPES = ("score", "mean_slope", "token_slopes")


def loss_traces(n_tokens: int, *, slopes: bool) -> dict[str, object]:
    """Losses under every draw of one component's chains: a row is a draw, steps are counted from the trained weights."""
    columns = {
        "component": pl.String,
        "chain": pl.Int16,
        "draw": pl.Int32,
        "step": pl.Int32,
        "mean_loss": pl.Float64,  # of the observable set, under the draw
        "init_loss": pl.Float64,  # of the observable set, at the trained weights
        "score": pl.Float64,  # slope of the negative log posterior along the chain's direction v
        "mean_slope": pl.Float64,  # slope of the mean loss along v
        "token_losses": pl.Array(pl.Float32, n_tokens),
        "token_slopes": pl.Array(pl.Float32, n_tokens),
    }
    return columns if slopes else {name: kind for name, kind in columns.items() if name not in SLOPES}


def token_key_frame(contexts: pl.DataFrame) -> pl.DataFrame:
    """The keys of every predicted token of a table of contexts, a context after another."""
    exploded = contexts.select("context_id", "document_id", "token_ids").with_columns(
        position=pl.int_ranges(pl.col("token_ids").list.len(), dtype=pl.Int32)
    )
    tokens = exploded.explode("token_ids", "position").filter(pl.col("position") > 0)
    return tokens.select("context_id", "position", "document_id", pl.col("token_ids").alias("token_id"))


def token_ids(contexts: pl.DataFrame) -> Int[np.ndarray, "contexts positions"]:
    """Token ids of a table of contexts, which all have one length."""
    return np.asarray(contexts["token_ids"].to_list(), dtype=np.int64)


def matrix(column: pl.Series, dtype: type[np.floating] = np.float32) -> Float[np.ndarray, "rows width"]:
    """The vectors of an Array column as a matrix."""
    return column.to_numpy().astype(dtype, copy=False)


def with_vectors(
    keys: pl.DataFrame, *, half_precision: bool = False, **columns: Float[np.ndarray, "tokens width"]
) -> pl.DataFrame:
    """The keys with one Array column for each matrix given by name.

    Raises:
        ValueError: a matrix has another number of rows than the keys, or a value that is not finite.
    """
    series = []
    for name, values in columns.items():
        if len(values) != keys.height:
            raise ValueError(f"{name} must have one row for each of {keys.height} tokens, got {len(values)} rows")
        with np.errstate(over="ignore"):
            precise = values.astype(np.float16 if half_precision else np.float32)
        if not np.isfinite(precise).all():
            n_bad = int(np.sum(~np.isfinite(precise).all(axis=1)))
            raise ValueError(
                f"{name} must be finite as {precise.dtype}, got {n_bad} tokens with nan or infinity; nothing was stored"
            )
        element = pl.Float16 if half_precision else pl.Float32
        series.append(pl.Series(name, precise, dtype=pl.Array(element, values.shape[1])))
    return keys.with_columns(series)


class StackedTokens(NamedTuple):
    """Per-token tables of several shards laid end to end, in order of shard."""

    shard: pl.Series
    keys: pl.DataFrame
    values: Float[np.ndarray, "tokens width"]


def stack(frames: dict[str, pl.LazyFrame], column: str) -> StackedTokens:
    """The vectors under `column` of every shard; sorted by shard, for no order of loading may change a number."""
    shards = sorted(frames)
    loaded = [frames[shard].select(*TOKEN_KEY, column).collect() for shard in shards]
    names = pl.concat(
        [pl.Series("shard", [shard] * frame.height, dtype=pl.String) for shard, frame in zip(shards, loaded)]
    )
    keys = pl.concat([frame.select(*TOKEN_KEY) for frame in loaded])
    return StackedTokens(names, keys, np.concatenate([matrix(frame[column]) for frame in loaded]))


def check(frame: pl.DataFrame | pl.LazyFrame, columns: Sequence[str], where: str) -> None:
    """Refuse a table that lacks one of the columns: it was written by something else, or by an older version."""
    present = frame.collect_schema().names()
    missing = [column for column in columns if column not in present]
    if missing:
        raise ValueError(f"{where} lacks the columns {missing} and has {present}; materialize it again")
