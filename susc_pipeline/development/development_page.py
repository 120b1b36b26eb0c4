"""The static page of the development: a slider over checkpoints, in the explorer's style. Nothing is computed here."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import scipy

from susc_pipeline.explorer import payload, site

STATIC = Path(__file__).parent / "static"
SHARED = ("app.js", "charts.js", "colors.js", "components.js", "tables.js", "style.css")  # of the explorer
SHOWN = ("components", "clusters", "matches", "tokens")  # tables


def save(
    folder: Path,
    tables: Mapping[str, pl.DataFrame],
    summary: Mapping[str, Any],
    described: Sequence[Mapping[str, Any]],
    *,
    n_chains: int,
) -> None:
    """Write the page into a folder that does not exist yet; it needs no server and loads nothing from a network.

    Args:
        folder: of the page, `index.html` in it.
        tables: as of `joined.join`.
        summary: as of `joined.summary`, with the sentences on checkpoints left out as `left_out`.
        described: name, kind, layer and head of each component.
        n_chains: behind each error, for the width of a 95 % interval.
    """
    shutil.copytree(STATIC, folder)
    for name in SHARED:
        shutil.copyfile(site.STATIC / name, folder / name)
    value = {
        "steps": [row["step"] for row in summary["checkpoints"]],
        "described": list(described),
        "summary": dict(summary),
        "quantile": float(scipy.stats.t.ppf(0.975, n_chains - 1)),
        **{name: tables[name].fill_nan(None).to_dicts() for name in SHOWN},
    }
    payload.write(folder / "data", "development", value)
