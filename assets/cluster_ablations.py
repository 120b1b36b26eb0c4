"""Ablations of the clusters: without whitening, and in the spaces of the sampled tokens. Made on request, by `make controls`.

They are searches of susceptibilities by another way. What is no susceptibility is in text_controls.py and kernel_controls.py.
"""

import dagster as dg
import numpy as np
import polars as pl

from assets import branch, plots, pools
from assets.control_search import GROUP
from assets.partitions import EVERY_SHARD, ON_REQUEST, version
from resources.storage import Store
from susc_pipeline import schema
from susc_pipeline.clustering import agreement, membership, search
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.representation import pca
from susc_pipeline.representation.pca import PCABasis


@dg.asset(
    ins={"predicted_susceptibilities": dg.AssetIn(partition_mapping=EVERY_SHARD)},
    group_name=GROUP,
    kinds={"numpy", "parquet"},
    code_version=version(8, "knn", "clustering"),
    tags=ON_REQUEST,
    pool=pools.MEMORY,
)
def unwhitened_cluster_members(
    context: dg.AssetExecutionContext,
    predicted_susceptibilities: dict[str, pl.LazyFrame],
    cluster_members: pl.DataFrame,
    experiment: dg.ResourceParam[ExperimentConfig],
    store: dg.ResourceParam[Store],
) -> dg.MaterializeResult[pl.DataFrame]:
    """The whitening ablation: clusters of the same tokens by the same search, in predicted scores as they are.

    The metadata hold the adjusted Rand index with the whitened ones (Hubert and Arabie 1985): 1 equal, about 0 unrelated.
    """
    tokens = schema.stack(predicted_susceptibilities, "prediction")
    name = "unwhitened_cluster_members"
    graph = branch.graph_of(tokens.values, name, experiment, store, stream=["unwhitened"])
    found = branch.found_in(context, graph, tokens, experiment)
    both = [membership.labels(members, tokens) for members in (found.value, cluster_members)]
    metadata = {**(found.metadata or {}), "adjusted_rand_index_with_whitened": agreement.adjusted_rand_index(*both)}
    return dg.MaterializeResult(value=found.value, metadata=metadata)


@dg.asset(
    ins={
        "ground_truth_susceptibilities": dg.AssetIn(partition_mapping=EVERY_SHARD),
        "predicted_susceptibilities": dg.AssetIn(partition_mapping=EVERY_SHARD),
        "auxiliary_predictions": dg.AssetIn(partition_mapping=EVERY_SHARD),
    },
    group_name=GROUP,
    kinds={"numpy", "polars"},
    code_version=version(8, "knn", "clustering", "representation"),
    tags=ON_REQUEST,
    pool=pools.MEMORY,
)
def cluster_agreement(
    ground_truth_susceptibilities: dict[str, pl.LazyFrame],
    predicted_susceptibilities: dict[str, pl.LazyFrame],
    auxiliary_predictions: dict[str, pl.LazyFrame],
    pca_basis: PCABasis,
    experiment: dg.ResourceParam[ExperimentConfig],
    store: dg.ResourceParam[Store],
) -> dg.MaterializeResult[pl.DataFrame]:
    """How alike clusters of the ground-truth tokens are by what was sampled, upsampled and predicted, whitened and not.

    Adjusted Rand index (Hubert and Arabie 1985), and the share of clusters with a match of Jaccard |A and B| / |A or B| >= 1/2.
    One search of the same tokens in each of the spaces, so that what whitening does, what prediction does and what
    is left of the tokens' own likeness can be told apart.
    """
    shards = sorted(ground_truth_susceptibilities)
    truth = schema.stack(ground_truth_susceptibilities, "susceptibility")
    frames = {"upsampled": predicted_susceptibilities, "auxiliary": auxiliary_predictions}
    if experiment.representation.upsampling == "auxiliary":
        del frames["auxiliary"]  # the same numbers
    spaces = {"sampled": pca.transform(truth.values, pca_basis)}
    for name, found in frames.items():
        spaces[name] = schema.stack({shard: found[shard] for shard in shards}, "prediction").values
    spaces |= {f"{name}, whitened": branch.whitened([scores], experiment) for name, scores in spaces.items()}
    labels = {}
    for name, scores in spaces.items():
        points = scores.astype(np.float32)
        graph = branch.graph_of(points, "cluster_agreement", experiment, store, stream=[name])
        labels[name] = search.find_clusters(graph, experiment.clustering).labels
    frame = agreement.table(labels)
    return dg.MaterializeResult(value=frame, metadata={"table": plots.table(frame)})
