"""What the site holds of single tokens: their neighbours in the graph, and what was sampled of them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int
from scipy import sparse

from susc_pipeline.explorer import numbering as corpus_module
from susc_pipeline.explorer import payload
from susc_pipeline.explorer.numbering import Corpus
from susc_pipeline.representation.pca import PCABasis

NONE = -1


def strongest_edges(rows: sparse.csr_array, n_edges: int) -> Int[np.ndarray, "tokens neighbors"]:
    """Vertices on the strongest edges of each row's vertex, strongest first; -1 where there are fewer."""
    result = np.full((rows.shape[0], n_edges), NONE, dtype=np.int64)
    row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    order = np.lexsort((np.negative(rows.data), row))
    rank = np.arange(len(order)) - rows.indptr[row]
    kept = rank < n_edges
    result[row[kept], rank[kept]] = rows.indices[order][kept]
    return result


def sampled(truth: dict[str, pl.LazyFrame], basis: PCABasis, corpus: Corpus) -> Iterator[tuple[int, dict[str, Any]]]:
    """For each context that has some: sampled susceptibilities in standard deviations, with their errors."""
    positions = payload.packed(np.arange(1, corpus.n_positions))
    for shard in sorted(truth):
        frame = corpus_module.per_token(truth[shard], corpus, shard, ["susceptibility", "standard_error"])
        for place, number in enumerate(corpus.contexts.filter(shard=shard)["context"]):
            rows = frame.slice(place * corpus.tokens_per_context, corpus.tokens_per_context)
            value = (rows["susceptibility"].to_numpy() - basis.mean) / basis.scale
            error = rows["standard_error"].to_numpy() / basis.scale
            yield number, {"positions": positions, "value": payload.quantized(value), "error": payload.quantized(error)}
