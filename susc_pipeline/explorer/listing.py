"""The list of clusters: the columns by which it is sorted and filtered, and an example of each."""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64, Int

from susc_pipeline.explorer import cards as card_module
from susc_pipeline.explorer import payload
from susc_pipeline.explorer.cards import Cards
from susc_pipeline.explorer.corpus import Corpus, Members

PREVIEW_BEFORE, PREVIEW_AFTER = 10, 4


def columns(
    clusters: pl.DataFrame,
    cards: Cards,
    tokens: list[list[tuple[Any, int]]],
    sources: list[list[tuple[Any, int]]],
    survival: Float64[np.ndarray, " clusters"],
) -> dict[str, Any]:
    """The columns by which clusters are sorted and filtered, a value for each cluster.

    Args:
        clusters: as schema.CLUSTERS.
        cards: their numbers.
        tokens: of each the most frequent tokens with their counts, the first of them shown.
        sources: likewise.
        survival: best match of each with another run's clusters.
    """
    table = clusters.sort("cluster")
    component, deviation = card_module.dominant_component(cards)
    size = table["size"].to_numpy()
    names = sorted({found[0][0] for found in sources})
    number_of = {name: number for number, name in enumerate(names)}
    ratios = {
        "conductance": table["conductance"].to_numpy(),
        "density": table["density"].to_numpy(),
        "reliability": cards.measured.reliability,
        "agreement": cards.measured.agreement,
        "survival": survival,
        "deviation": deviation,
        "loss": cards.columns.of(cards.profile, "loss").mean[:, 0],
        "tokenShare": _first(tokens, 1) / np.maximum(size, 1),
        "sourceShare": _first(sources, 1) / np.maximum(size, 1),
    }
    return {
        "sources": names,
        "size": payload.packed(size),
        "measured": payload.packed(cards.measured.count),
        "component": payload.packed(component),
        "token": payload.packed(_first(tokens, 0)),
        "source": payload.packed(np.array([number_of[found[0][0]] for found in sources], dtype=np.int64)),
        **{name: payload.quantized(values[:, None]) for name, values in ratios.items()},
    }


def previews(members: Members, corpus: Corpus) -> Int[np.ndarray, "clusters window"]:
    """Token ids around the most central member of each cluster, one higher than they are; 0 beyond the context."""
    central = members.frame.filter(rank=0).sort("cluster")
    offsets = np.arange(-PREVIEW_BEFORE, PREVIEW_AFTER + 1)
    places = central["position"].to_numpy()[:, None] + offsets
    inside = (places >= 0) & (places < corpus.token_ids.shape[1])
    rows = central["context"].to_numpy()[:, None]
    return np.where(inside, corpus.token_ids[rows, np.where(inside, places, 0)] + 1, 0)


def _first(lists: list[list[tuple[Any, int]]], place: int) -> Int[np.ndarray, " clusters"]:
    return np.array([found[0][place] for found in lists], dtype=np.int64)
