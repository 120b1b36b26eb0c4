"""The tokens behind an entry of the page of observables: those of a data change that respond most to a component.

One pass over the shards for each table of responses. Texts outside the corpus have no place on the site, so none are listed.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from susc_pipeline import schema
from susc_pipeline.explorer import extremes, payload
from susc_pipeline.explorer.extremes import Extremes
from susc_pipeline.susceptibility import data_changes
from susc_pipeline.susceptibility.data_changes import DataChange

N_TOKENS = 10  # of an entry
COLUMNS = (*data_changes.KEYS, "document_id", "token_id", "half_a", "half_b")


class Measured(NamedTuple):
    """Responses of every token, by shard; a vector holds the components of the first observable, then those of the next."""

    observables: Sequence[str]
    tables: Mapping[str, pl.LazyFrame]


class Entry(NamedTuple):
    """The tokens of a data change that respond most by an observable, to each component."""

    observable: str
    data_change: str
    tokens: Extremes


def furthest(changes: Sequence[DataChange], measured: Measured, members: pl.LazyFrame) -> Iterator[Entry]:
    """Of each observable, data change and component the tokens whose responses are furthest from zero.

    Args:
        changes: those of the experiment; one that names a file has no token here.
        measured: half_a and half_b in nats times the observable's unit.
        members: of the clusters, as schema.MEMBERS.
    """
    kept, first = [], 0
    for shard, table in sorted(measured.tables.items()):
        tokens = table.select(COLUMNS).collect()
        half_a, half_b = (schema.matrix(tokens[half]) for half in ("half_a", "half_b"))
        kept = kept or [extremes.empty(half_a.shape[1], N_TOKENS) for _ in changes]
        numbers, rows = data_changes.chosen_tokens(changes, tokens, members.filter(shard=shard).collect())
        for number, found in enumerate(kept):
            own = rows[numbers == number]
            value, error = (half_a[own] + half_b[own]) / 2, np.abs(half_a[own] - half_b[own]) / 2
            unmeasured = np.full_like(value, np.nan)
            values = np.stack([value, error, unmeasured, unmeasured], axis=2)
            extremes.add(found, np.abs(value), first + own, tokens["token_id"].to_numpy()[own], values)
        first += tokens.height
    if not kept:
        return
    places = np.split(np.arange(len(kept[0].key)), len(measured.observables))
    for observable, columns in zip(measured.observables, places, strict=True):
        for change, found in zip(changes, kept, strict=True):
            if (found.token[columns] >= 0).any():
                yield Entry(observable, change.name, Extremes(*(part[columns] for part in found)))


def write(folder: Path, entries: Sequence[Entry]) -> list[list[str]]:
    """A file for each entry, numbered in order; the observable and the data change of each."""
    for number, entry in enumerate(entries):
        components = [extremes.listed(entry.tokens, place) for place in range(len(entry.tokens.key))]
        payload.write(folder, f"asked/{number:04d}", components)
    return [[entry.observable, entry.data_change] for entry in entries]
