"""What the numbers mean: the regime of each component, the negative control, the sweep of sampler settings."""

import dataclasses

import dagster as dg
import numpy as np
import polars as pl

from assets import plots, pools, progress
from assets.partitions import WITHHELD, version
from assets.sampling import directions_population, population_of
from resources.component_folder import ComponentFolder
from resources.language_model import LanguageModelFolder
from susc_pipeline import schema, seeds
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components
from susc_pipeline.sampling import calibration as calibrations
from susc_pipeline.susceptibility import control as controls
from susc_pipeline.susceptibility import direction_files, estimators
from susc_pipeline.susceptibility import regime as regimes
from susc_pipeline.susceptibility.estimators import ShardEstimates

GROUP = "3_meaning"
CONTROL_SHARE = 10  # one context in so many of a withheld shard is measured again
CONTROL_DRAWS = 4


@dg.asset(
    group_name=GROUP,
    kinds={"pytorch", "numpy"},
    code_version=version(1, "sampling", "regime", "components"),
    pool=pools.GPU,
)
def regime(
    context: dg.AssetExecutionContext,
    language_model: LanguageModelFolder,
    population_contexts: pl.LazyFrame,
    response_directions: ComponentFolder,
    experiment: dg.ResourceParam[ExperimentConfig],
) -> dg.MaterializeResult[pl.DataFrame]:
    """Which decides each component's susceptibilities, the loss or the Gaussian: n_beta / localization, LLC, 2 LLC / weights.

    LLC = n_beta (E[L] - L(w*)) (Lau et al. 2023); twice it counts the directions of weight space that the loss controls. For
    the components of [regime] further rows say how linear responses at other n_beta follow those of n_beta = 0.
    """
    model = language_model.load(experiment.model).model
    population, probe = directions_population(population_contexts, experiment)
    settings, wanted = experiment.sampling, experiment.regime
    found = components.chosen(model, experiment.model.components)
    rows = []
    for component in progress.track(context, found, "components", len(found)):
        stored = direction_files.diagnostics(response_directions.whole(component.name))
        own = settings.at(stored.localization)
        rows.append(regimes.row(model, component, own, stored, largest=stored.curvature))
    tables, digest = [regimes.table(rows)], direction_files.model_digest(model)
    for component in progress.track(context, wanted.components, "sweeps of n_beta", len(wanted.components)):
        chosen = components.by_name(model, component)
        place = response_directions.whole(component)
        stored = direction_files.load(place, model, chosen, digest=digest, with_rest=True)
        own = settings.at(stored.localization)
        source = seeds.sequence(experiment.seed, "regime", component)
        at_rest = regimes.rest_slopes(model, chosen, probe, stored)
        parts = (population, probe, at_rest, wanted.n_betas, source)
        budget = experiment.directions.limited(wanted.max_contexts)
        tables.append(regimes.sweep(model, chosen, own, budget, *parts))
    frame = pl.concat(tables)
    figures = {"mean_llc": float(frame["llc"].mean() or np.nan), "table": plots.table(frame)}
    return dg.MaterializeResult(value=frame, metadata=figures)


@dg.asset(
    ins={name: dg.AssetIn(partition_mapping=WITHHELD) for name in ("token_shards", "ground_truth_susceptibilities")},
    group_name=GROUP,
    kinds={"pytorch", "numpy"},
    code_version=version(3, "sampling", "susceptibility", "components"),
    pool=pools.GPU,
)
def negative_control(
    context: dg.AssetExecutionContext,
    language_model: LanguageModelFolder,
    token_shards: dict[str, pl.LazyFrame],
    ground_truth_susceptibilities: dict[str, pl.LazyFrame],
    population_contexts: pl.LazyFrame,
    response_directions: ComponentFolder,
    experiment: dg.ResourceParam[ExperimentConfig],
) -> dg.MaterializeResult[pl.DataFrame]:
    """Whether susceptibilities are what they claim: the change of the mean excess loss from n_beta = 0 to n_beta, per n_beta.

    chi = d<l_xy - L>/d(n_beta), an identity (Baker et al. 2025), so the change is the integral of chi. Chains at n_beta and
    at 0 have the same noise. One component of each kind, one context in ten of a withheld shard. Empty unless
    sampling.negative_control.
    """
    if not experiment.sampling.negative_control or experiment.sampling.n_beta == 0:
        return dg.MaterializeResult(value=pl.DataFrame(schema=schema.CONTROL))
    model = language_model.load(experiment.model).model
    shard = min(token_shards)
    contexts = schema.token_ids(token_shards[shard].collect())
    contexts = contexts[: max(1, len(contexts) // CONTROL_SHARE)]
    n_tokens = contexts.size - len(contexts)
    real = estimators.shard_of_frame(ground_truth_susceptibilities[shard].head(n_tokens).collect())
    draws = population_of(population_contexts, "draws", experiment.sampling.n_chains)
    enumerated, names = components.chosen(model, experiment.model.components), calibrations.default_components(model)
    chosen = [number for number, component in enumerate(enumerated) if component.name in names]
    settings = dataclasses.replace(experiment.sampling, n_draws=CONTROL_DRAWS, draw_batch_size=0)
    digest, differences = direction_files.model_digest(model), []
    for component in progress.track(context, [enumerated[number] for number in chosen], "components", len(chosen)):
        place = response_directions.whole(component.name)
        stored = direction_files.load(place, model, component, digest=digest, with_rest=True)
        own = settings.at(stored.localization)
        source = seeds.sequence(experiment.seed, "negative_control", component.name)
        parts = (model, component, own, contexts, draws, source)
        differences.append(controls.difference(*parts, rest=stored.at_rest, largest=stored.curvature))
    estimates = ShardEstimates(*(part[:, chosen] for part in real))
    in_order = [enumerated[number].name for number in chosen]
    frame = controls.table(in_order, differences, estimates, n_beta=experiment.sampling.n_beta)
    slope = float(frame["slope"].median() or np.nan)
    return dg.MaterializeResult(value=frame, metadata={"median_slope": slope, "table": plots.table(frame)})


@dg.asset(
    group_name=GROUP, kinds={"pytorch", "numpy"}, code_version=version(5, "sampling", "calibration"), pool=pools.GPU
)
def calibration(
    context: dg.AssetExecutionContext,
    language_model: LanguageModelFolder,
    population_contexts: pl.LazyFrame,
    experiment: dg.ResourceParam[ExperimentConfig],
) -> dg.MaterializeResult[pl.DataFrame]:
    """A sweep of step size, n_beta and localization on a few components: diagnostics, verdicts, a recommendation.

    R-hat (Gelman and Rubin 1992) says whether chains agree, LLC = n_beta (E[L] - L(w*)) (Lau et al. 2023) whether they lie
    above w*. Nothing reads it: it is for the person who chooses the settings. Empty unless calibration.enabled.
    """
    if not experiment.calibration.enabled:
        return dg.MaterializeResult(value=pl.DataFrame(schema=schema.CALIBRATION))
    model = language_model.load(experiment.model).model
    population, probe = directions_population(population_contexts, experiment)
    found = calibrations.sweep(
        model,
        population,
        probe[: experiment.calibration.n_contexts],
        experiment.sampling,
        experiment.calibration,
        seed=experiment.seed,
        progress=progress.reporter(context, "settings"),
    )
    best = calibrations.recommended(found.table)
    picture = plots.calibration(found.table)
    metadata = {"recommended": dg.MetadataValue.json(best or {}), "sound": found.table.filter(verdict="good").height}
    return dg.MaterializeResult(
        value=found.table, metadata={**metadata, "verdicts": picture, "table": plots.table(found.table)}
    )
