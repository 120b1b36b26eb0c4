"""What the site tells of a run: how its chains behaved, and the tables of its diagnostics, ready to be written."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import regime
from susc_pipeline.susceptibility.direction_files import Diagnostics

CHAINS = ("component", "r_hat", "effective_share", "llc", "llc_error", "direction_reliability", "contexts")


def chains(found: pl.DataFrame) -> pl.DataFrame:
    """What the page shows of schema.CHAIN_DIAGNOSTICS: the chains that found the response directions of each component."""
    return found.filter(pl.col("shard").is_null()).select(*CHAINS, pl.col("contexts_needed").alias("contexts_for_0.9"))


def loss_traces(found: Mapping[str, Diagnostics], settings: SamplingSettings) -> dict[str, Any]:
    """Of each chain the rise of the mean loss over that at the trained weights, by step after the burn-in."""
    rises = [regime.rises(one, settings) for one in found.values()]
    return {
        "components": list(found),
        "initial": [0.0] * len(rises),
        "steps": [list(range(settings.n_burn_in, settings.n_burn_in + rise.shape[1])) for rise in rises],
        "losses": [[[_plain(v) for v in chain] for chain in rise] for rise in rises],
    }


def table(frame: pl.DataFrame) -> dict[str, Any]:
    """A table as the page reads it; numbers with six significant digits, what is not finite missing."""
    rows = [[_plain(value) if isinstance(value, float) else value for value in row] for row in frame.iter_rows()]
    return {"columns": frame.columns, "rows": rows}


def rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """A table as a list of its rows, each with the names of the columns; numbers as in `table`."""
    found = table(frame)
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def _plain(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
