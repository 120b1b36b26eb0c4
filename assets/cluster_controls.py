"""What the clusters are not, as a table: how many of them each control finds. Made on request alone, by `make controls`.

How the controls are made is in text_controls.py, kernel_controls.py and sampled_controls.py; clusters of susceptibilities by
another way are in cluster_ablations.py.
"""

from typing import Any, NamedTuple

import dagster as dg
import numpy as np
import polars as pl

from assets import plots, progress
from assets.clusters import ALL_WHITENED
from assets.control_search import GROUP
from assets.partitions import EXPERIMENT, ON_REQUEST, version
from assets.prediction import BY_AUXILIARY
from susc_pipeline import schema, seeds
from susc_pipeline import tokens as token_shards
from susc_pipeline.clustering import controls, membership
from susc_pipeline.clustering.controls import OF_SAMPLED_TOKENS, SUSCEPTIBILITIES, WITHOUT_LOSS, Control
from susc_pipeline.config import ExperimentConfig


class Source(NamedTuple):
    """A clustering that the clusters are compared with."""

    asset: str
    name: str
    knows: str
    of_sampled_tokens: bool = False
    """Whether it has clustered the tokens of the ground-truth shards alone."""


TABLE_OR_NONE: Any = pl.DataFrame | None
OF_SAMPLED = (
    ("ground_truth", "sampled values"),
    ("linear_response", "linear response"),
    ("auxiliary", "auxiliary model"),
)
SOURCES = (
    Source("token_cluster_members", "the token", "text"),
    Source("token_pair_cluster_members", "the token and the one before", "text"),
    *(
        Source(f"layer_{layer}_cluster_members", f"activations after layer {layer}", "activations")
        for layer in EXPERIMENT.representation.layers
    ),
    Source("gradient_cluster_members", "gradient kernel", "gradients"),
    Source("untrained_cluster_members", "gradient kernel, untrained weights", "other weights"),
    Source("permuted_cluster_members", "gradient kernel, permuted weights", "other weights"),
    *([] if BY_AUXILIARY else [Source("auxiliary_cluster_members", "auxiliary model", SUSCEPTIBILITIES)]),
    Source("unwhitened_cluster_members", "without whitening", SUSCEPTIBILITIES),
    Source("half_a_cluster_members", "half a of the chains", SUSCEPTIBILITIES),
    Source("half_b_cluster_members", "half b of the chains", SUSCEPTIBILITIES),
    Source("without_loss_cluster_members", WITHOUT_LOSS, SUSCEPTIBILITIES),
    *(
        Source(f"sampled_tokens_{asset}_cluster_members", f"sampled tokens alone: {name}", OF_SAMPLED_TOKENS, True)
        for asset, name in OF_SAMPLED
    ),
)
DESCRIPTIONS = {
    "cluster_controls": "What the clusters are not: how many of them other clusterings of the same tokens find too. A control "
    "finds a cluster at a Jaccard index |A and B| / |A or B| >= 1/2; adjusted mutual information is over all tokens (Vinh, Epps "
    "and Bailey 2010). Chance: the control's labels permuted among the occurrences of each token. Intervals are over documents.",
    "cluster_control_matches": "Which control finds which cluster: for each pair the largest Jaccard index |A and B| / |A or B| "
    "(Jaccard 1912).",
}


@dg.multi_asset(
    ins={**ALL_WHITENED, **{source.asset: dg.AssetIn(dagster_type=TABLE_OR_NONE) for source in SOURCES}},
    outs={
        name: dg.AssetOut(
            kinds={"numpy", "polars"}, code_version=version(2, "clustering"), description=text, tags=ON_REQUEST
        )
        for name, text in DESCRIPTIONS.items()
    },
    group_name=GROUP,
)
def compare_with_controls(
    context: dg.AssetExecutionContext,
    whitened_susceptibilities: dict[str, pl.LazyFrame],
    clusters: pl.DataFrame,
    cluster_members: pl.DataFrame,
    experiment: dg.ResourceParam[ExperimentConfig],
    **members: pl.DataFrame | None,
):
    """How many of the clusters each control finds, and which; controls that were not made have no row."""
    tokens = schema.stack(whitened_susceptibilities, "whitened")
    labels = membership.labels(cluster_members, tokens)
    is_sampled = tokens.shard.is_in(token_shards.ground_truth_keys(experiment.tokens)).to_numpy()
    made, absent = [], {}
    for source in SOURCES:
        found = members[source.asset]
        if found is None or "reason" in found.columns:
            absent[source.name] = "not materialized" if found is None else found["reason"][0]
        else:
            has_seen = is_sampled if source.of_sampled_tokens else None
            made.append(Control(source.name, source.knows, membership.labels(found, tokens), has_seen))
    rng = np.random.default_rng(seeds.sequence(experiment.seed, "cluster_controls"))
    token_ids, documents = (tokens.keys[name].to_physical() for name in ("token_id", "document_id"))
    texts = (token_ids.to_numpy(), documents.rank("dense").to_numpy())
    smallest, report = experiment.clustering.min_size, progress.reporter(context, "controls")
    table = controls.table(labels, made, *texts, rng, smallest=smallest, progress=report)
    matches = controls.matches(labels, made, n_clusters=clusters.height)
    said = controls.conclusion(table, matches)
    metadata = {"conclusion": said, "not_made": dg.MetadataValue.json(absent), "table": plots.table(table)}
    yield dg.Output(table, "cluster_controls", metadata={**metadata, "controls": plots.controls(table)})
    yield dg.Output(matches, "cluster_control_matches")
