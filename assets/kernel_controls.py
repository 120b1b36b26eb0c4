"""Controls of the clusters by slopes of each token's loss: along the plain gradient, at other weights, along other directions.

Made on request alone, by `make controls`. Controls that take no gradient are in text_controls.py.
"""

from collections.abc import Callable

import dagster as dg
import numpy as np
import polars as pl
import torch

from assets import pools, progress, sampling
from assets.clusters import ALL_WHITENED
from assets.control_search import GROUP, SAME_SEARCH, SHARDED, searched
from assets.partitions import ON_REQUEST, version
from assets.sampling import DIRECTED_BY
from resources.component_folder import ComponentFolder
from resources.language_model import LanguageModelFolder
from resources.storage import Store
from susc_pipeline import schema, seeds
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components, randomized
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.representation import pca
from susc_pipeline.representation.pca import PCABasis
from susc_pipeline.susceptibility import direction_files, gradient_kernel, without_loss
from susc_pipeline.susceptibility import linear_response as responses
from susc_pipeline.susceptibility.direction_files import StoredDirections

N_GRADIENT_CONTEXTS = 512  # of the population, for the gradients of a model whose loss is nowhere near a minimum
Alteration = Callable[[Decoder, torch.Generator], Decoder]
Gradients = dict[Component, torch.Tensor]
KERNEL = (
    "Control of the clusters: the same tokens by the slope of each one's loss along the gradient of the population loss, "
    "k = grad L . grad l for each component (Jacot, Gabriel and Hongler 2018)"
)
KERNEL_VERSION = version(2, "knn", "clustering", "representation", "components")


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


@dg.asset(
    ins={**ALL_WHITENED, **SHARDED},
    group_name=GROUP,
    kinds={"pytorch", "parquet"},
    code_version=version(2, "knn", "clustering", "representation", "components", "linear_response", *DIRECTED_BY),
    description="Control of the clusters: the same tokens by linear responses of chains that never see the loss, n_beta = 0 in "
    "p(w) ~ exp(-n_beta L - localization/2 |w - w*|^2) (Lau et al. 2023), with the noise and documents of the run. "
    f"{SAME_SEARCH}",
    tags=ON_REQUEST,
    pool=pools.GPU,
)
def without_loss_cluster_members(
    context: dg.AssetExecutionContext,
    language_model: LanguageModelFolder,
    token_shards: dict[str, pl.LazyFrame],
    population_contexts: pl.LazyFrame,
    response_directions: ComponentFolder,
    pca_basis: PCABasis,
    whitened_susceptibilities: dict[str, pl.LazyFrame],
    experiment: dg.ResourceParam[ExperimentConfig],
    store: dg.ResourceParam[Store],
) -> dg.MaterializeResult[pl.DataFrame]:
    """The description is given above; metadata: correlation over probe tokens of linear responses at n_beta and at 0."""
    model = language_model.load(experiment.model).model
    correlations: dict[str, float] = {}

    def vectors() -> list[np.ndarray]:
        parts = (context, model, population_contexts, response_directions, experiment)
        along = halves_without_loss(*parts, correlations)
        shards = sorted(token_shards)
        tracked = progress.track(context, shards, "shards", len(shards))
        ids = (schema.token_ids(token_shards[shard].collect()) for shard in tracked)
        return [pca.transform(responses.estimate(model, each, along).value, pca_basis) for each in ids]

    found = searched(context, vectors, schema.stack(whitened_susceptibilities, "whitened"), experiment, store)
    figures = {"correlation_with_n_beta": dg.MetadataValue.json(correlations)}
    return dg.MaterializeResult(value=found.value, metadata={**(found.metadata or {}), **figures})


def halves_without_loss(
    context: dg.AssetExecutionContext,
    model: Decoder,
    population_contexts: pl.LazyFrame,
    response_directions: ComponentFolder,
    experiment: ExperimentConfig,
    correlations: dict[str, float],
) -> dict[Component, StoredDirections]:
    """Directions of either half of chains at n_beta = 0, scores as in the run; each component's correlation is noted."""
    population, probe = sampling.directions_population(population_contexts, experiment)
    chosen, digest = components.chosen(model, experiment.model.components), direction_files.model_digest(model)
    n_scores = experiment.linear_response.n_scores
    own = direction_files.halves(response_directions.path, model, chosen, digest=digest, n_scores=n_scores)
    for component in progress.track(context, chosen, "components", len(chosen)):
        path = response_directions.whole(component.name)
        stored = direction_files.load(path, model, component, digest=digest, with_rest=True)
        source = seeds.sequence(experiment.seed, "response_directions", component.name)
        settings = (experiment.sampling, experiment.directions, population, probe)
        made_by = (stored, direction_files.diagnostics(path), source)
        found = without_loss.directions_without_loss(model, component, *settings, *made_by)
        correlations[component.name] = round(found.followed.correlation, 4)
        halves = found.halves
        own[component] = own[component]._replace(directions=halves.directions, mean_slopes=halves.mean_slopes)
    return own
