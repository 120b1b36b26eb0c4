"""What the site tells of the changes that the experiment wants: what they ask, and the documents that would make them."""

from pathlib import Path
from typing import Any

import polars as pl

from susc_pipeline.explorer import asked, payload, run_page

STATIC = Path(__file__).parent / "static_wanted"
TABLES = ("wanted_changes", "document_weights")  # that the page shows, where they were made
N_DOCUMENTS = 25  # with the largest weights above one, and as many with the smallest below


def section(wanted: pl.DataFrame | None, weights: pl.DataFrame | None) -> list[dict[str, Any]] | None:
    """An entry for each wanted change; nothing where none was asked for.

    Args:
        wanted: of schema.WANTED_CHANGES.
        weights: of schema.DOCUMENT_WEIGHTS.
    """
    if wanted is None or weights is None:
        return None
    names = wanted["wanted_change"].unique(maintain_order=True)
    return [_entry(name, wanted.filter(wanted_change=name), weights.filter(wanted_change=name)) for name in names]


def _entry(name: str, wanted: pl.DataFrame, weights: pl.DataFrame) -> dict[str, Any]:
    facts = wanted.select("n_documents", "n_clipped", "reachable_share", "unclipped_share").head(1)
    by_weight = weights.select("document_id", "weight", "standard_error", "n_tokens").sort("weight", "document_id")
    is_more, is_less = pl.col("weight") > 1, pl.col("weight") < 1
    return {
        "name": name,
        **run_page.rows(facts)[0],
        "components": run_page.rows(wanted.select("name", "role", "wanted", "predicted", "standard_error")),
        "more": run_page.rows(by_weight.filter(is_more).reverse().head(N_DOCUMENTS)),
        "less": run_page.rows(by_weight.filter(is_less).head(N_DOCUMENTS)),
    }


def write(folder: Path, found: list[dict[str, Any]]) -> None:
    """Add the page and its data to a site, with a link to it and its script in index.html."""
    payload.write(folder / "data", "wanted", found)
    asked.add_page(folder, "#/wanted", "Wanted changes", STATIC / "view-wanted.js")
