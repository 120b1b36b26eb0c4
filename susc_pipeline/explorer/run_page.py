"""What the site tells of a run: how its chains behaved, and the tables of its diagnostics, ready to be written."""

import math
from typing import Any

import numpy as np
import polars as pl

from susc_pipeline.sampling import diagnostics


def chains(traces: dict[str, list[pl.DataFrame]], *, n_beta: float) -> pl.DataFrame:
    """For each component R-hat, effective share of the draws, and LLC with its error, over the chains of all shards.

    Args:
        traces: of each component a table of draws for each shard (schema.loss_traces).
        n_beta: the weight of the loss in the posterior; with 0 the LLC is missing.
    """
    rows = []
    for name, frames in traces.items():
        by_chain = np.concatenate([_by_chain(frame) for frame in frames])
        llc = diagnostics.local_learning_coefficient(by_chain, init_loss=frames[0]["init_loss"][0], n_beta=n_beta)
        enough = by_chain.shape[1] >= 4
        rows.append(
            {
                "component": name,
                "r_hat": diagnostics.r_hat(by_chain) if enough else None,
                "effective_share": diagnostics.effective_sample_size(by_chain) / by_chain.size,
                "llc": llc.value if n_beta else None,
                "llc_error": llc.standard_error if n_beta else None,
            }
        )
    return pl.DataFrame(rows)


def loss_traces(traces: dict[str, list[pl.DataFrame]]) -> dict[str, Any]:
    """Mean loss by step of each chain of the first shard, and the loss at the trained weights."""
    found = {name: frames[0] for name, frames in traces.items()}
    return {
        "components": list(found),
        "initial": [_plain(frame["init_loss"][0]) for frame in found.values()],
        "steps": [frame.filter(chain=frame["chain"][0])["step"].to_list() for frame in found.values()],
        "losses": [[[_plain(v) for v in chain] for chain in _by_chain(frame)] for frame in found.values()],
    }


def table(frame: pl.DataFrame) -> dict[str, Any]:
    """A table as the page reads it; numbers with six significant digits, what is not finite missing."""
    rows = [[_plain(value) if isinstance(value, float) else value for value in row] for row in frame.iter_rows()]
    return {"columns": frame.columns, "rows": rows}


def _by_chain(frame: pl.DataFrame) -> np.ndarray:
    return frame["mean_loss"].to_numpy().reshape(frame["chain"].n_unique(), -1)


def _plain(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
