"""Do the clusters' responses say what happens when a component is changed? Made on request alone, by `make controls`."""

import dagster as dg
import numpy as np
import polars as pl
import torch
from torch.nn import functional

from assets import plots, pools, progress, sampling
from assets.clusters import ALL_WHITENED
from assets.control_search import GROUP, SHARDED
from assets.partitions import EVERY_SHARD, ON_REQUEST, version
from resources.component_folder import ComponentFolder
from resources.language_model import LanguageModelFolder
from susc_pipeline import schema, seeds
from susc_pipeline.clustering import interventions, membership
from susc_pipeline.clustering.interventions import Matched
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components, intervention
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.susceptibility import direction_files
from susc_pipeline.susceptibility.direction_files import StoredDirections

N_MEAN_CONTEXTS = 256  # of the population, for the mean output of a component


@dg.asset(
    ins={**ALL_WHITENED, **SHARDED, "linear_response": dg.AssetIn(partition_mapping=EVERY_SHARD)},
    group_name=GROUP,
    kinds={"pytorch", "parquet"},
    code_version=version(1, "model", "components"),
    tags=ON_REQUEST,
    pool=pools.GPU,
)
def cluster_interventions(
    context: dg.AssetExecutionContext,
    language_model: LanguageModelFolder,
    token_shards: dict[str, pl.LazyFrame],
    population_contexts: pl.LazyFrame,
    response_directions: ComponentFolder,
    linear_response: dict[str, pl.LazyFrame],
    whitened_susceptibilities: dict[str, pl.LazyFrame],
    cluster_members: pl.DataFrame,
    experiment: dg.ResourceParam[ExperimentConfig],
) -> dg.MaterializeResult[pl.DataFrame]:
    """Causal check of the clusters: a component is ablated by its mean, or its weights scaled by 0.95 and 1.05.

    For each of the 50 clusters with the strongest mean response to a component, that component is changed. The change of the
    members' loss is held against that of tokens outside of the same string and the nearest loss: r of mean(x_in - x_out) with
    mean(d_in - d_out), d = l_changed - l, x the response, beside permuted clusters (mean ablation: Wang et al. 2022).
    """
    model = language_model.load(experiment.model).model
    chosen = components.chosen(model, experiment.model.components)
    responses = schema.stack(linear_response, "linear_response")
    standardized = (responses.values - responses.values.mean(axis=0)) / responses.values.std(axis=0)
    labels = membership.labels(cluster_members, schema.stack(whitened_susceptibilities, "whitened"))
    columns = [linear_response[shard].select("token_id", "loss", "document_id") for shard in sorted(linear_response)]
    tokens = pl.concat(columns).collect()
    token_ids, losses = tokens["token_id"].to_numpy(), tokens["loss"].to_numpy()
    rng = np.random.default_rng(seeds.sequence(experiment.seed, "cluster_interventions"))
    strongest = interventions.strongest(standardized, labels, n_clusters=interventions.N_CLUSTERS)
    order = np.lexsort((losses, token_ids))
    pairs = [interventions.matched(*each, labels, token_ids, losses, order, rng) for each in strongest]
    documents = tokens["document_id"].rank("dense").to_numpy()
    contexts = np.concatenate([schema.token_ids(token_shards[shard].collect()) for shard in sorted(token_shards)])
    population = sampling.population_of(population_contexts, "directions", 1, limit=N_MEAN_CONTEXTS)
    rows, digest = [], direction_files.model_digest(model)
    for number in sorted({pair.component for pair in pairs}):
        own = [pair for pair in pairs if pair.component == number and len(pair.members)]
        if not own:
            continue
        changes = changes_of(context, model, chosen[number], contexts, own, population.parts[0])
        path = response_directions.whole(chosen[number].name)
        cosine = cosine_with_weights(
            direction_files.load(path, model, chosen[number], digest=digest), model, chosen[number]
        )
        for name, values in changes.items():
            described = (chosen[number].name, name, standardized[:, number], values, documents)
            rows += interventions.rows(own, *described, weight_cosine=cosine)
    table = pl.DataFrame(rows, schema=schema.CLUSTER_INTERVENTIONS)
    found = interventions.correlations(table, rng)
    measured = {f"r, {each.intervention}": each.correlation for each in found}
    said = {"conclusion": interventions.conclusion(found), "plot": plots.interventions(table)}
    return dg.MaterializeResult(value=table, metadata={**said, **measured})


def cosine_with_weights(stored: StoredDirections, model: Decoder, component: Component) -> float:
    """Cosine of the mean response direction with the component's weights."""
    own = torch.cat([weight.flatten() for weight in components.weights(model, component).values()]).float()
    return float(functional.cosine_similarity(stored.directions.float().mean(dim=0), own, dim=0))


def changes_of(
    context: dg.AssetExecutionContext,
    model: Decoder,
    component: Component,
    contexts: np.ndarray,
    pairs: list[Matched],
    population: np.ndarray,
) -> dict[str, np.ndarray]:
    """Change of every token's loss under each intervention; nan in contexts where no pair has a token."""
    n_predicted = contexts.shape[1] - 1
    needed = np.unique(np.concatenate([side for pair in pairs for side in (pair.members, pair.outside)]) // n_predicted)
    batches = torch.as_tensor(population.astype(np.int64), device=model.device).split(8)
    has_mean = intervention.can_be_ablated(model, component)
    mean = intervention.mean_output(model, component, batches) if has_mean else None
    report = progress.reporter(context, f"contexts under {component.name}")
    found = intervention.loss_changes(model, component, contexts[needed], mean, progress=report)
    changes = {}
    for name, values in found.items():
        everywhere = np.full((len(contexts), n_predicted), np.nan, np.float32)
        everywhere[needed] = values
        changes[name] = everywhere.reshape(-1)
    return changes
