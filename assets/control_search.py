"""The search of a control of the clusters: vectors of all tokens whitened, joined in a graph and searched like the run's own.

Which vectors they are is in text_controls.py, kernel_controls.py and sampled_controls.py; cluster_controls.py compares.
"""

from collections.abc import Callable

import dagster as dg
import numpy as np
import polars as pl

from assets import branch
from assets.partitions import EVERY_SHARD
from resources.storage import Store
from susc_pipeline import schema
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.schema import StackedTokens

GROUP = "8_cluster_controls"
SHARDED = {"token_shards": dg.AssetIn(partition_mapping=EVERY_SHARD)}
SAME_SEARCH = (
    "Whitened, v = U (x - mean) / sqrt(variance), then graph and search as of the run (Andersen, Chung and Lang 2006)."
)


def searched(
    context: dg.AssetExecutionContext,
    vectors: Callable[[], list[np.ndarray]],
    tokens: StackedTokens,
    experiment: ExperimentConfig,
    store: Store,
) -> dg.MaterializeResult[pl.DataFrame]:
    """Members of the clusters in vectors of all shards; the reason, as schema.NOT_MADE, where there are no sound vectors.

    One control that cannot be made must not keep the others from the table.
    """
    name = context.asset_key.path[-1]
    try:
        points = branch.whitened(vectors(), experiment)
        graph = branch.graph_of(points, name, experiment, store, stream=[name])
    except ValueError as error:
        context.log.warning(f"{name} was not made: {error}")
        return dg.MaterializeResult(
            value=pl.DataFrame({"reason": [str(error)]}, schema=schema.NOT_MADE), metadata={"not_made": str(error)}
        )
    return branch.found_in(context, graph, tokens, experiment)
