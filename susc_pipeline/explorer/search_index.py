"""The search index: sorted keys in files of equal length, so that a query loads the one file in which it falls.

Keys are compared as the page compares strings: by UTF-16 code unit.
"""

from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from susc_pipeline.explorer import payload

MAX_CLUSTERS_OF_TOKEN = 100
WHITESPACE = " \t\r\n"


class Entry(NamedTuple):
    """What is found under a key."""

    key: str
    content: list[Any]


def token_key(text: str) -> str:
    """A token is found without its outer whitespace and in any case; one that is nothing but whitespace as it is."""
    return text.strip(WHITESPACE).lower() or text


class TokenIndex(NamedTuple):
    """Of each token that is a member: in how many clusters, how often, and the clusters that hold most of it."""

    totals: pl.DataFrame
    most: pl.DataFrame


def empty() -> TokenIndex:
    """The index of no cluster."""
    columns = {"token": pl.Int32, "n_clusters": pl.Int64, "count": pl.Int64}
    return TokenIndex(
        pl.DataFrame(schema=columns), pl.DataFrame(schema={"token": pl.Int32, "cluster": pl.Int32, "count": pl.Int64})
    )


def updated(index: TokenIndex, counts: pl.DataFrame) -> TokenIndex:
    """The index with the clusters of another chunk, given how often each token is a member of each."""
    added = counts.group_by("token").agg(n_clusters=pl.len().cast(pl.Int64), count=pl.col("count").sum())
    totals = pl.concat([index.totals, added]).group_by("token").agg(pl.all().sum())
    every = pl.concat([index.most, counts.select(index.most.columns)])
    ordered = every.sort(["count", "cluster", "token"], descending=[True, False, False])
    return TokenIndex(totals, ordered.group_by("token", maintain_order=True).head(MAX_CLUSTERS_OF_TOKEN))


def token_entries(index: TokenIndex, texts: list[str]) -> list[Entry]:
    """An entry for each token: its id, in how many clusters, how often, then the clusters and their counts."""
    most = index.most.group_by("token", maintain_order=True).agg("cluster", "count")
    found = most.join(index.totals, on="token", how="left", maintain_order="left", suffix="_total")
    columns = found.select("token", "n_clusters", "count_total", "cluster", "count")
    return [Entry(token_key(texts[token]), [token, *rest]) for token, *rest in columns.iter_rows()]


def write(folder: Path, name: str, entries: list[Entry], *, per_file: int) -> list[str]:
    """Write the entries in order of key as `<name>/0000.js` and on; the first key of each file."""
    ordered = sorted(entries, key=lambda entry: code_units(entry.key))
    firsts = []
    for number, start in enumerate(range(0, len(ordered), per_file)):
        chunk = ordered[start : start + per_file]
        firsts.append(chunk[0].key)
        payload.write(folder, f"{name}/{number:04d}", [[entry.key, *entry.content] for entry in chunk])
    return firsts


def code_units(text: str) -> bytes:
    """The key by which the page's strings are ordered."""
    return text.encode("utf-16-be", "surrogatepass")
