"""Controls of the clusters by what the model reads and holds: text, activations, and what is predicted from activations.

Made on request alone, by `make controls`. Controls that take gradients are in kernel_controls.py.
"""

import dagster as dg
import numpy as np
import polars as pl

from assets import pools
from assets.clusters import ALL_WHITENED
from assets.control_search import GROUP, SAME_SEARCH, SHARDED, searched
from assets.partitions import EVERY_SHARD, EXPERIMENT, ON_REQUEST, version
from resources.storage import Store
from susc_pipeline import schema
from susc_pipeline.clustering import controls
from susc_pipeline.config import ExperimentConfig


def partition_asset(asset: str, columns: tuple[str, ...], about: str) -> dg.AssetsDefinition:
    """Clusters of tokens that are equal in some columns of the text."""

    @dg.asset(
        name=asset,
        ins={**ALL_WHITENED, **SHARDED},
        kinds={"polars"},
        code_version=version(1),
        description=about,
        group_name=GROUP,
        tags=ON_REQUEST,
    )
    def members_by_text(
        token_shards: dict[str, pl.LazyFrame], whitened_susceptibilities: dict[str, pl.LazyFrame]
    ) -> dg.MaterializeResult[pl.DataFrame]:
        tokens = schema.stack(whitened_susceptibilities, "whitened")
        contexts = pl.concat([token_shards[shard] for shard in sorted(token_shards)]).collect()
        text = schema.with_token_before(tokens.keys, contexts)
        members = controls.partition_members(controls.codes_of(*(text[name].to_numpy() for name in columns)), tokens)
        metadata = {"clusters": members["cluster"].n_unique()}
        return dg.MaterializeResult(value=members, metadata=metadata)

    return members_by_text


token_cluster_members = partition_asset(
    "token_cluster_members",
    ("token_id",),
    "Control of the clusters: one cluster for each token string, x ~ y where token(x) = token(y), without a graph (compared as "
    "Vinh, Epps and Bailey 2010).",
)
token_pair_cluster_members = partition_asset(
    "token_pair_cluster_members",
    ("token_before", "token_id"),
    "Control of the clusters: one cluster for each token with the one before it, x ~ y where both are equal, without a graph "
    "(compared as Vinh, Epps and Bailey 2010).",
)


def layer_asset(place: int, layer: int) -> dg.AssetsDefinition:
    """Clusters by the residual stream after one layer, the place-th that is stored."""

    @dg.asset(
        name=f"layer_{layer}_cluster_members",
        ins={**ALL_WHITENED, "activations": dg.AssetIn(partition_mapping=EVERY_SHARD)},
        code_version=version(2, "knn", "clustering", "representation"),
        description=f"Control of the clusters: the same tokens by the residual stream after layer {layer}. {SAME_SEARCH}",
        group_name=GROUP,
        kinds={"numpy", "parquet"},
        tags=ON_REQUEST,
        pool=pools.MEMORY,
    )
    def members_by_layer(
        context: dg.AssetExecutionContext,
        activations: dict[str, pl.LazyFrame],
        whitened_susceptibilities: dict[str, pl.LazyFrame],
        experiment: dg.ResourceParam[ExperimentConfig],
        store: dg.ResourceParam[Store],
    ) -> dg.MaterializeResult[pl.DataFrame]:
        def vectors() -> list[np.ndarray]:
            return [schema.part_of(activations[shard], "activation", place, n_layers) for shard in sorted(activations)]

        n_layers = len(experiment.representation.layers)
        return searched(context, vectors, schema.stack(whitened_susceptibilities, "whitened"), experiment, store)

    return members_by_layer


layer_cluster_members = [layer_asset(*each) for each in enumerate(EXPERIMENT.representation.layers)]


@dg.asset(
    ins={**ALL_WHITENED, "auxiliary_predictions": dg.AssetIn(partition_mapping=EVERY_SHARD)},
    code_version=version(2, "knn", "clustering", "representation"),
    description="Comparison of the clusters: the same tokens by the scores that the auxiliary model predicts from their "
    f"activations. {SAME_SEARCH}",
    group_name=GROUP,
    kinds={"numpy", "parquet"},
    tags=ON_REQUEST,
    pool=pools.MEMORY,
)
def auxiliary_cluster_members(
    context: dg.AssetExecutionContext,
    auxiliary_predictions: dict[str, pl.LazyFrame],
    whitened_susceptibilities: dict[str, pl.LazyFrame],
    experiment: dg.ResourceParam[ExperimentConfig],
    store: dg.ResourceParam[Store],
) -> dg.MaterializeResult[pl.DataFrame]:
    """The description is given above."""

    def vectors() -> list[np.ndarray]:
        frames = sorted(auxiliary_predictions.items())
        return [schema.stack({shard: frame}, "prediction").values for shard, frame in frames]

    return searched(context, vectors, schema.stack(whitened_susceptibilities, "whitened"), experiment, store)
