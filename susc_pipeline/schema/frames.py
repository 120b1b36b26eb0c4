"""Between stored tables and arrays: keys of tokens, vectors of columns, shards laid end to end."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from susc_pipeline.schema.token_tables import TOKEN_KEY


def token_key_frame(contexts: pl.DataFrame) -> pl.DataFrame:
    """The keys of every predicted token of a table of contexts, a context after another."""
    exploded = contexts.select("context_id", "document_id", "token_ids").with_columns(
        position=pl.int_ranges(pl.col("token_ids").list.len(), dtype=pl.Int32)
    )
    tokens = exploded.explode("token_ids", "position").filter(pl.col("position") > 0)
    return tokens.select("context_id", "position", "document_id", pl.col("token_ids").alias("token_id"))


def with_token_before(keys: pl.DataFrame, contexts: pl.DataFrame) -> pl.DataFrame:
    """The keys of predicted tokens, in their order, with the id of the token before each as `token_before`."""
    every = contexts.select("context_id", pl.col("token_ids").alias("token_before"))
    places = every.with_columns(position=pl.int_ranges(1, pl.col("token_before").list.len() + 1, dtype=pl.Int32))
    before = places.explode("token_before", "position")
    return keys.join(before, on=["context_id", "position"], how="left", maintain_order="left")


def part_of(frame: pl.LazyFrame, column: str, number: int, n_parts: int) -> Float[np.ndarray, "tokens width"]:
    """One of the equal parts of which the vectors of a column are made, numbered from 0: of activations, a layer."""
    kind = frame.collect_schema()[column]
    width = kind.shape[0] // n_parts if isinstance(kind, pl.Array) else 0
    return matrix(frame.select(pl.col(column).arr.slice(number * width, width, as_array=True)).collect()[column])


def token_ids(contexts: pl.DataFrame) -> Int[np.ndarray, "contexts positions"]:
    """Token ids of a table of contexts, which all have one length."""
    return np.asarray(contexts["token_ids"].to_list(), dtype=np.int64)


def matrix(column: pl.Series, dtype: type[np.floating] = np.float32) -> Float[np.ndarray, "rows width"]:
    """The vectors of an Array column as a matrix."""
    return column.to_numpy().astype(dtype, copy=False)


def with_vectors(
    keys: pl.DataFrame, *, half_precision: bool = False, **columns: Float[np.ndarray, "tokens _"]
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
