"""Clusters of the sampled tokens alone, by three measurements of the same susceptibilities: which of them lets clusters be found.

Made on request alone, by `make controls`. Controls of all tokens are in text_controls.py and kernel_controls.py.
"""

from collections.abc import Callable

import dagster as dg
import numpy as np
import polars as pl

from assets import pools
from assets.control_search import GROUP, SAME_SEARCH, searched
from assets.partitions import EVERY_SHARD, ON_REQUEST, version
from resources.storage import Store
from susc_pipeline import schema, tokens
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.representation import pca
from susc_pipeline.representation.pca import PCABasis

Scores = Callable[[np.ndarray, PCABasis], np.ndarray]


def as_they_are(scores: np.ndarray, _: PCABasis) -> np.ndarray:
    """PC scores already."""
    return scores


def sampled_asset(name: str, source: str, column: str, scores_of: Scores, about: str) -> dg.AssetsDefinition:
    """Clusters of the ground-truth shards' tokens by the vectors of one asset."""

    @dg.asset(
        name=f"sampled_tokens_{name}_cluster_members",
        ins={"frames": dg.AssetIn(source, partition_mapping=EVERY_SHARD)},
        group_name=GROUP,
        kinds={"numpy", "parquet"},
        code_version=version(2, "knn", "clustering", "representation"),
        description=f"Comparison of the clusters: the tokens of the ground-truth shards alone, by {about}. {SAME_SEARCH}",
        tags=ON_REQUEST,
        pool=pools.MEMORY,
    )
    def members_of_sampled_tokens(
        context: dg.AssetExecutionContext,
        frames: dict[str, pl.LazyFrame],
        pca_basis: PCABasis,
        experiment: dg.ResourceParam[ExperimentConfig],
        store: dg.ResourceParam[Store],
    ) -> dg.MaterializeResult[pl.DataFrame]:
        shards = tokens.ground_truth_keys(experiment.tokens)
        sampled = schema.stack({shard: frames[shard] for shard in shards}, column)
        return searched(context, lambda: [scores_of(sampled.values, pca_basis)], sampled, experiment, store)

    return members_of_sampled_tokens


sampled_tokens_cluster_members = [
    sampled_asset(
        "ground_truth", "ground_truth_susceptibilities", "susceptibility", pca.transform, "sampled susceptibilities"
    ),
    sampled_asset("linear_response", "linear_response", "linear_response", pca.transform, "linear response"),
    sampled_asset("auxiliary", "auxiliary_predictions", "prediction", as_they_are, "what the auxiliary model predicts"),
]
