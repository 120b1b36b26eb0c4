"""Controls of the clusters: what else finds them. Made on request alone, by `make controls`.

Each control clusters the run's tokens by something that is not a susceptibility; cluster_controls compares. Vectors are whitened,
joined in a graph and searched like the run's own. What finds clusters of susceptibilities is in clusters.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import dagster as dg
import numpy as np
import polars as pl
import torch

from assets import branch, plots, pools, progress, sampling
from assets.clusters import ALL_WHITENED
from assets.partitions import EVERY_SHARD, EXPERIMENT, ON_REQUEST, version
from assets.prediction import BY_AUXILIARY
from resources.component_folder import ComponentFolder
from resources.language_model import LanguageModelFolder
from resources.storage import Store
from susc_pipeline import schema, seeds
from susc_pipeline.clustering import controls, reading
from susc_pipeline.clustering.controls import SUSCEPTIBILITIES, Control
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components, randomized
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.schema import StackedTokens
from susc_pipeline.susceptibility import direction_files, gradient_kernel

GROUP = "8_cluster_controls"
N_GRADIENT_CONTEXTS = 512  # of the population, for the gradients of a model whose loss is nowhere near a minimum
SHARDED = {"token_shards": dg.AssetIn(partition_mapping=EVERY_SHARD)}
SAME_SEARCH = (
    "Whitened, v = U (x - mean) / sqrt(variance), then graph and search as of the run (Andersen, Chung and Lang 2006)."
)


class Source(NamedTuple):
    """A clustering that the clusters are compared with."""

    asset: str
    name: str
    knows: str


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
        code_version=version(1, "knn", "clustering", "representation"),
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
    code_version=version(1, "knn", "clustering", "representation"),
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


Alteration = Callable[[Decoder, torch.Generator], Decoder]
Gradients = dict[Component, torch.Tensor]
KERNEL = (
    "Control of the clusters: the same tokens by the slope of each one's loss along the gradient of the population loss, "
    "k = grad L . grad l for each component (Jacot, Gabriel and Hongler 2018)"
)
KERNEL_VERSION = version(1, "knn", "clustering", "representation", "components")


@dg.asset(
    ins={**ALL_WHITENED, **SHARDED},
    group_name=GROUP,
    kinds={"pytorch", "parquet"},
    code_version=KERNEL_VERSION,
    description=f"{KERNEL}, at the trained weights. {SAME_SEARCH}",
    tags=ON_REQUEST,
    pool=pools.GPU,
)
def gradient_cluster_members(
    context: dg.AssetExecutionContext,
    language_model: LanguageModelFolder,
    token_shards: dict[str, pl.LazyFrame],
    response_directions: ComponentFolder,
    whitened_susceptibilities: dict[str, pl.LazyFrame],
    experiment: dg.ResourceParam[ExperimentConfig],
    store: dg.ResourceParam[Store],
) -> dg.MaterializeResult[pl.DataFrame]:
    """The gradients are those behind the response directions: of all documents of the directions."""
    model = language_model.load(experiment.model).model
    digest = direction_files.model_digest(model)

    def gradients() -> Gradients:
        found = {}
        for component in components.chosen(model, experiment.model.components):
            path = response_directions.whole(component.name)
            found[component] = direction_files.population_gradient(path, model, component, digest=digest)
        return found

    vectors = kernels(context, model, gradients, token_shards)
    return searched(context, vectors, schema.stack(whitened_susceptibilities, "whitened"), experiment, store)


def altered_asset(asset: str, alter: Alteration, about: str) -> dg.AssetsDefinition:
    """Clusters by the gradient kernel of a model with other weights."""

    @dg.asset(
        name=asset,
        ins={**ALL_WHITENED, **SHARDED},
        group_name=GROUP,
        kinds={"pytorch", "parquet"},
        code_version=KERNEL_VERSION,
        description=f"{KERNEL}, {about}. {SAME_SEARCH}",
        tags=ON_REQUEST,
        pool=pools.GPU,
    )
    def members_by_kernel(
        context: dg.AssetExecutionContext,
        language_model: LanguageModelFolder,
        token_shards: dict[str, pl.LazyFrame],
        population_contexts: pl.LazyFrame,
        whitened_susceptibilities: dict[str, pl.LazyFrame],
        experiment: dg.ResourceParam[ExperimentConfig],
        store: dg.ResourceParam[Store],
    ) -> dg.MaterializeResult[pl.DataFrame]:
        trained, n_chains = language_model.load(experiment.model).model, experiment.sampling.n_chains
        model = alter(trained, seeds.generator(seeds.sequence(experiment.seed, asset), trained.device))
        n_each = -(-N_GRADIENT_CONTEXTS // n_chains)
        population = sampling.population_of(population_contexts, "directions", n_chains, limit=n_each)

        def gradients() -> Gradients:
            chosen = components.chosen(model, experiment.model.components)
            return gradient_kernel.population_gradient(model, np.concatenate(population.parts), chosen)

        vectors = kernels(context, model, gradients, token_shards)
        return searched(context, vectors, schema.stack(whitened_susceptibilities, "whitened"), experiment, store)

    return members_by_kernel


def kernels(
    context: dg.AssetExecutionContext,
    model: Decoder,
    gradients: Callable[[], Gradients],
    token_shards: dict[str, pl.LazyFrame],
) -> Callable[[], list[np.ndarray]]:
    """What gives the gradient kernel of each shard's tokens, when it is asked."""

    def found() -> list[np.ndarray]:
        along, shards = gradients(), sorted(token_shards)
        tracked = progress.track(context, shards, "shards", len(shards))
        ids = (schema.token_ids(token_shards[shard].collect()) for shard in tracked)
        return [gradient_kernel.gradient_kernel(model, each, along) for each in ids]

    return found


untrained_cluster_members = altered_asset(
    "untrained_cluster_members", randomized.untrained, "of a model of the same shapes before training"
)
permuted_cluster_members = altered_asset(
    "permuted_cluster_members", randomized.permuted, "after the entries of each weight matrix are put in random order"
)

TABLE_OR_NONE: Any = pl.DataFrame | None
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
        name: dg.AssetOut(kinds={"numpy", "polars"}, code_version=version(1), description=text, tags=ON_REQUEST)
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
    labels = reading.labels(cluster_members, tokens)
    made, absent = [], {}
    for source in SOURCES:
        found = members[source.asset]
        if found is None or "reason" in found.columns:
            absent[source.name] = "not materialized" if found is None else found["reason"][0]
        else:
            made.append(Control(source.name, source.knows, reading.labels(found, tokens)))
    rng = np.random.default_rng(seeds.sequence(experiment.seed, "cluster_controls"))
    token_ids, documents = (tokens.keys[name].to_physical() for name in ("token_id", "document_id"))
    documents = documents.rank("dense").to_numpy()
    report = progress.reporter(context, "controls")
    table = controls.table(labels, made, token_ids.to_numpy(), documents, rng, progress=report)
    matches = controls.matches(labels, made, n_clusters=clusters.height)
    said = controls.conclusion(table, matches)
    metadata = {"conclusion": said, "not_made": dg.MetadataValue.json(absent), "table": plots.table(table)}
    yield dg.Output(table, "cluster_controls", metadata={**metadata, "controls": plots.controls(table)})
    yield dg.Output(matches, "cluster_control_matches")
