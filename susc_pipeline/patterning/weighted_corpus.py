"""A corpus with a weight for each document, as Parquet that any trainer reads. How the weights are found is elsewhere."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from susc_pipeline.corpus import Document, is_text

SCHEMA = {"name": pl.String, "text": pl.String, "weight": pl.Float64}


def write(path: Path, documents: Sequence[Document], weights: Float[np.ndarray, " documents"]) -> None:
    """Write name, text and weight of each document, in their order; the file appears whole or not at all.

    A trainer multiplies the document's loss with the weight, or draws documents in proportion to it. `corpus.kind =
    "files"` reads the texts, without the weights.

    Raises:
        ValueError: weights that are negative, not finite or all zero, another number of them, or a name given twice.
    """
    if len(weights) != len(documents):
        raise ValueError(f"{len(weights)} weights for {len(documents)} documents; give one for each")
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError("weights must be finite, not negative and not all zero; clip them as reweighting.py does")
    names = [document.document_id for document in documents]
    if len(set(names)) < len(names):
        raise ValueError(f"the name {max(names, key=names.count)!r} is given twice; name every document apart")
    if not all(is_text(part) for document in documents for part in document):
        raise ValueError("a document holds half of a surrogate pair, which is no character; remove it")
    columns = {"name": names, "text": [document.text for document in documents], "weight": weights.astype(np.float64)}
    unfinished = path.with_name(f"{path.name}.tmp")
    pl.DataFrame(columns, schema=SCHEMA).write_parquet(unfinished)
    unfinished.replace(path)
