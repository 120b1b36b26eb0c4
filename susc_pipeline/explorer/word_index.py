"""The index of the text: where each word and each token of the corpus stands, in a cluster or not.

A word is a run of letters, digits and underscores, or of other visible characters; it may span tokens and is found at its
first one. Case does not count. The first token of a context is predicted from nothing: a word that lies in it alone is
not indexed.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from susc_pipeline.explorer import search_index
from susc_pipeline.explorer.numbering import Tokens
from susc_pipeline.explorer.search_index import Entry

MAX_PLACES = 500
WORD = re.compile(r"\w+|[^\w\s]+")
SCATTER = 2654435761  # Knuth's multiplier: the numbers of tokens in an order that favours no part of the corpus


class WordIndex(NamedTuple):
    """Of each key how often it stands in the text, how often in a cluster, and MAX_PLACES of its tokens, a fair sample."""

    totals: pl.DataFrame
    places: pl.DataFrame


def empty() -> WordIndex:
    """The index of no text."""
    totals = {"key": pl.String, "count": pl.Int64, "clustered": pl.Int64}
    return WordIndex(pl.DataFrame(schema=totals), pl.DataFrame(schema={"key": pl.String, "token": pl.Int64}))


def updated(index: WordIndex, tokens: Tokens, texts: list[str], first_context: int) -> WordIndex:
    """The index with the contexts of another shard, of which the first has that number."""
    keys, places = [], []
    width = tokens.clusters.shape[1]
    for row, ids in enumerate(tokens.token_ids.tolist()):
        for key, position in occurrences([texts[number] for number in ids]):
            keys.append(key)
            places.append(row * width + position - 1)
    place = np.array(places, dtype=np.int64)
    found = pl.DataFrame(
        {"key": keys, "token": place + first_context * width, "clustered": tokens.clusters.ravel()[place] >= 0},
        schema={"key": pl.String, "token": pl.Int64, "clustered": pl.Int64},
        strict=False,
    )
    counted = found.group_by("key").agg(count=pl.len().cast(pl.Int64), clustered=pl.col("clustered").sum())
    totals = pl.concat([index.totals, counted]).group_by("key").agg(pl.all().sum())
    scattered = (pl.col("token") * SCATTER) % 2**32
    kept = pl.concat([index.places, found.select("key", "token")]).sort(scattered, "token")
    return WordIndex(totals, kept.group_by("key", maintain_order=True).head(MAX_PLACES))


def occurrences(texts: list[str]) -> Iterator[tuple[str, int]]:
    """Each word and each token of a context with the position of its first predicted token."""
    ends = np.cumsum([len(text) for text in texts])
    found = {(search_index.token_key(text), position) for position, text in enumerate(texts) if position}
    for match in WORD.finditer("".join(texts)):
        position = int(np.searchsorted(ends, match.start(), side="right"))
        if position or match.end() > ends[0]:
            found.add((match[0].lower(), max(position, 1)))
    yield from sorted(found)


def entries(index: WordIndex) -> list[Entry]:
    """An entry for each key: how often it stands in the text, how often in a cluster, and tokens where it does."""
    places = index.places.sort("token").group_by("key").agg("token")
    return [Entry(key, rest) for key, *rest in index.totals.join(places, on="key").iter_rows()]
