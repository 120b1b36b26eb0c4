"""From vectors of all tokens to clusters: whitening, graph, search. Which vectors they are is the caller's affair."""

from collections.abc import Sequence

import dagster as dg
import numpy as np
import polars as pl
from scipy import sparse

from assets import progress
from resources.storage import Store
from susc_pipeline import seeds
from susc_pipeline.clustering import blocks, membership, search
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.representation import moments, whitening
from susc_pipeline.schema import StackedTokens


def whitened(shards: Sequence[np.ndarray], experiment: ExperimentConfig) -> np.ndarray:
    """The vectors of all shards, one after another, by a whitening basis of their own."""
    merged = moments.merge_all(moments.of(values) for values in shards)
    basis = whitening.fit(merged, relative_floor=experiment.representation.whitening_floor)
    return np.concatenate([whitening.transform(values, basis).astype(np.float32) for values in shards])


def graph_of(
    points: np.ndarray, name: str, experiment: ExperimentConfig, store: Store, *, stream: Sequence[str] = ()
) -> sparse.csr_array:
    """The k-NN graph of the points, by the experiment's settings; `name` is of the asset, `stream` of the random numbers."""
    rng = np.random.default_rng(seeds.sequence(experiment.seed, "knn_graph", *stream))
    with store.scratch(name) as folder:
        return blocks.knn_graph(points, experiment.knn, rng, folder)


def found_in(
    context: dg.AssetExecutionContext, graph: sparse.csr_array, tokens: StackedTokens, experiment: ExperimentConfig
) -> dg.MaterializeResult[pl.DataFrame]:
    """The members of the clusters of a graph, as schema.MEMBERS; its vertices are the tokens in their order."""
    report = progress.reporter(context, "tokens cut from")
    found = search.find_clusters(graph, experiment.clustering, progress=report)
    members = membership.member_table(found, tokens)
    metadata = {"clusters": len(found.size)}
    return dg.MaterializeResult(value=members, metadata=metadata)
