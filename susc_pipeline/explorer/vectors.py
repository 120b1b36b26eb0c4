"""What the site holds of single tokens: their neighbours in the graph, and what was sampled of them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int
from scipy import sparse

from susc_pipeline.explorer import payload
from susc_pipeline.explorer.corpus import Corpus
from susc_pipeline.representation.pca import PCABasis

NONE = -1


def strongest_edges(graph: sparse.csr_array, first: int, end: int, n_edges: int) -> Int[np.ndarray, "tokens neighbors"]:
    """Vertices on the strongest edges of the vertices first ... end - 1, strongest first; -1 where there are fewer."""
    result = np.full((end - first, n_edges), NONE, dtype=np.int64)
    starts = graph.indptr[first : end + 1].astype(np.int64)
    edges = slice(starts[0], starts[-1])
    row = np.repeat(np.arange(end - first), np.diff(starts))
    order = np.lexsort((np.negative(graph.data[edges]), row))
    rank = np.arange(len(order)) - (starts[:-1] - starts[0])[row]
    kept = rank < n_edges
    result[row[kept], rank[kept]] = graph.indices[edges][order][kept]
    return result


def sampled(truth: dict[str, pl.LazyFrame], basis: PCABasis, corpus: Corpus) -> Iterator[tuple[int, dict[str, Any]]]:
    """For each context that has some: sampled susceptibilities in standard deviations, with their errors."""
    numbers = corpus.contexts.select("context_id", "context")
    for shard in sorted(truth):
        columns = ["context_id", "position", "susceptibility", "standard_error"]
        frame = truth[shard].select(columns).collect()
        joined = frame.join(numbers, on="context_id", how="left", maintain_order="left")
        for (number,), rows in joined.group_by("context", maintain_order=True):
            value = (rows["susceptibility"].to_numpy() - basis.mean) / basis.scale
            error = rows["standard_error"].to_numpy() / basis.scale
            yield (
                int(str(number)),
                {
                    "positions": payload.packed(rows["position"].to_numpy()),
                    "value": payload.quantized(value),
                    "error": payload.quantized(error),
                },
            )
