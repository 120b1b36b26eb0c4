"""What the site tells of the observables and data changes that the experiment names. None named: no page."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from susc_pipeline.explorer import asked_tokens, payload, run_page
from susc_pipeline.explorer.asked_tokens import Entry

STATIC = Path(__file__).parent / "static_asked"
TABLES = ("data_change_susceptibilities", "observable_susceptibilities")  # that the page shows, where they were made
OWN = "loss of the population"  # the run's own observable
N_CLUSTERS = 10  # of an observable and a component, that are furthest from zero
LINK = '<a href="#/components">Components</a>\n'
LAST_SCRIPT = '<script src="start.js"></script>'


def section(
    data_changes: pl.DataFrame | None, observables: pl.DataFrame | None, tokens: Sequence[Entry] = ()
) -> dict[str, Any] | None:
    """The entries of all data changes that are named, and the clusters furthest from zero; nothing where none was asked for.

    Args:
        data_changes: as schema.DATA_CHANGES, of the run's own observable.
        observables: as schema.OBSERVABLES, where each cluster has rows too, under the name `cluster-N`.
        tokens: those behind the entries.
    """
    tables = [observables] if observables is not None else []
    if data_changes is not None:
        tables.insert(0, data_changes.with_columns(observable=pl.lit(OWN)))
    if not tables:
        return None
    every = pl.concat(tables, how="diagonal").drop("component")
    number = pl.col("source").str.extract(r"^cluster (\d+)$").cast(pl.Int64)
    is_cluster = (pl.format("cluster-{}", number) == pl.col("data_change")).fill_null(value=False)
    clusters = every.filter(is_cluster).with_columns(cluster=number)
    furthest = (
        clusters.sort(pl.col("susceptibility").abs(), descending=True, maintain_order=True)
        .group_by("observable", "name", maintain_order=True)
        .head(N_CLUSTERS)
        .select("observable", "name", "cluster", "susceptibility", "half_width", "n_tokens")
    )
    named = every.filter(~is_cluster)
    rows = run_page.rows(named if named.height else every)
    return {"rows": rows, "clusters": run_page.rows(furthest), "tokens": tokens}


def write(folder: Path, found: dict[str, Any]) -> None:
    """Add the page and its data to a site, with a link to it and its script in index.html."""
    data = folder / "data"
    payload.write(data, "observables", {**found, "tokens": asked_tokens.write(data, found["tokens"])})
    add_page(folder, "#/observables", "Observables", STATIC / "view-observables.js")


def add_page(folder: Path, address: str, name: str, script: Path) -> None:
    """Add the script that shows a page to a site, and to its index.html a link to the page behind that of the components."""
    shutil.copy(script, folder / script.name)
    index = folder / "index.html"
    text = index.read_text(encoding="utf-8")
    text = text.replace(LINK, f'{LINK}<a href="{address}">{name}</a>\n')
    text = text.replace(LAST_SCRIPT, f'<script src="{script.name}"></script>\n{LAST_SCRIPT}')
    index.write_text(text, encoding="utf-8")
