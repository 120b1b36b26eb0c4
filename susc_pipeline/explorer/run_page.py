"""What the site tells of a run: how its chains behaved, and the tables of its diagnostics, ready to be written."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from susc_pipeline.sampling import diagnostics
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import regime
from susc_pipeline.susceptibility.direction_files import Diagnostics


def chains(found: Mapping[str, Diagnostics], settings: SamplingSettings) -> pl.DataFrame:
    """For each component R-hat, effective share of the steps, LLC with its error, and how well its directions are determined."""
    rows = []
    for name, one in found.items():
        rise = regime.rises(one, settings)
        llc = diagnostics.local_learning_coefficient(rise, init_loss=0.0, n_beta=settings.n_beta)
        enough = rise.shape[1] >= 4
        rows.append(
            {
                "component": name,
                "r_hat": diagnostics.r_hat(rise) if enough else None,
                "effective_share": diagnostics.effective_sample_size(rise) / rise.size,
                "llc": llc.value if settings.n_beta else None,
                "llc_error": llc.standard_error if settings.n_beta else None,
                "direction_reliability": one.reliability,
                "contexts": one.n_contexts,
                "contexts_for_0.9": one.n_contexts_needed,
            }
        )
    return pl.DataFrame(rows)


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
