"""What the site tells of the controls of the clusters, where they were made. They are compared in clustering/controls.py."""

from typing import Any, NamedTuple

import polars as pl

from susc_pipeline.clustering import agreement, controls
from susc_pipeline.explorer import run_page


class Controls(NamedTuple):
    """The tables of the controls, as schema.CLUSTER_CONTROLS and schema.CLUSTER_CONTROL_MATCHES."""

    table: pl.DataFrame
    matches: pl.DataFrame


def of(table: pl.DataFrame | None, matches: pl.DataFrame | None) -> Controls | None:
    """Both tables, where both were made."""
    return None if table is None or matches is None else Controls(table, matches)


def section(found: Controls | None) -> dict[str, Any]:
    """The table and its conclusion in words; empty where no control was made."""
    if found is None:
        return {}
    return {"conclusion": controls.conclusion(found.table, found.matches), "rows": run_page.rows(found.table)}


def found_by(found: Controls | None, n_clusters: int) -> list[list[list[Any]] | None]:
    """For each cluster the name of each control that finds it, with the Jaccard index; nothing where no control was made."""
    if found is None:
        return [None] * n_clusters
    result: list[list[list[Any]] | None] = [[] for _ in range(n_clusters)]
    matched = found.matches.filter(pl.col("jaccard") >= agreement.MATCH)
    for cluster, control, jaccard in matched.select("cluster", "control", "jaccard").iter_rows():
        result[cluster] = [*(result[cluster] or []), [control, round(jaccard, 4)]]
    return result
