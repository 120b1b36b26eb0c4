"""The list of clusters: the columns by which it is sorted and filtered, and an example of each."""

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int, Shaped

from susc_pipeline.explorer import cards as card_module
from susc_pipeline.explorer import payload
from susc_pipeline.explorer.cards import Cards

RATIOS = ("conductance", "density", "reliability", "agreement", "deviation", "loss")
RATIOS += ("tokenShare", "sourceShare", "reproducibility", "gain", "gainLow", "f1", "tokenF1", "precision", "recall")
SCORES = {
    "gain": "gain",
    "gainLow": "gain_low",
    "f1": "f1",
    "tokenF1": "token_f1",
    "precision": "precision",
    "recall": "recall",
}


class Rows(NamedTuple):
    """What the list holds of some clusters: numbers by column, and the most frequent source of each."""

    numbers: dict[str, Shaped[np.ndarray, " clusters"]]
    source: list[str]


def rows(
    table: pl.DataFrame,
    labels: pl.DataFrame,
    cards: Cards,
    tokens: list[list[tuple[Any, int]]],
    sources: list[list[tuple[Any, int]]],
) -> Rows:
    """The rows of some clusters.

    Args:
        table: as schema.CLUSTERS, of these clusters in order.
        labels: as schema.LABELS, likewise.
        cards: their numbers.
        tokens: of each the most frequent tokens with their counts, the first of them shown.
        sources: likewise.
    """
    component, deviation = card_module.dominant_component(cards)
    size = table["size"].to_numpy()
    numbers = {
        "size": size,
        "measured": cards.measured.count,
        "component": component,
        "token": _first(tokens, 0),
        "conductance": table["conductance"].to_numpy(),
        "density": table["density"].to_numpy(),
        "reliability": cards.measured.reliability,
        "agreement": cards.measured.agreement,
        "reproducibility": table["reproducibility"].to_numpy(),
        **{name: labels[column].fill_null(np.nan).to_numpy() for name, column in SCORES.items()},
        "documents": labels["n_documents"].to_numpy(),
        "deviation": deviation,
        "loss": cards.columns.of(cards.profile, "loss").mean[:, 0],
        "tokenShare": _first(tokens, 1) / np.maximum(size, 1),
        "sourceShare": _first(sources, 1) / np.maximum(size, 1),
    }
    return Rows(numbers, [found[0][0] for found in sources])


def columns(parts: list[Rows]) -> dict[str, Any]:
    """The columns by which clusters are sorted and filtered, a value for each cluster."""
    shown = [source for part in parts for source in part.source]
    names = sorted(set(shown))
    number_of = {name: number for number, name in enumerate(names)}
    numbers = {name: np.concatenate([part.numbers[name] for part in parts]) for name in parts[0].numbers}
    return {
        "sources": names,
        "source": payload.packed(np.array([number_of[source] for source in shown], dtype=np.int64)),
        **{
            name: payload.quantized(values[:, None]) if name in RATIOS else payload.packed(values)
            for name, values in numbers.items()
        },
    }


def _first(lists: list[list[tuple[Any, int]]], place: int) -> Int[np.ndarray, " clusters"]:
    return np.array([found[0][place] for found in lists], dtype=np.int64)
