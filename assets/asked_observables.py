"""Observables that the experiment names: response directions, responses of all tokens, and the table. None: no asset."""

import dagster as dg
import numpy as np
import polars as pl

from assets import plots, pools, progress, sampling
from assets.partitions import EVERY_SHARD, EXPERIMENT, SHARDS, version
from assets.questions import FILES, GROUP, HALVES, add_files, add_shard
from resources import named_observables, named_texts
from resources.component_folder import ComponentFolder
from resources.language_model import LanguageModelFolder
from resources.storage import Store
from susc_pipeline import schema, seeds
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.susceptibility import data_changes, direction_files, observable_directions
from susc_pipeline.susceptibility import linear_response as responses
from susc_pipeline.susceptibility.direction_files import StoredDirections

Along = dict[str, dict[Component, StoredDirections]]


def directions_asset() -> dg.AssetsDefinition:
    """The response directions of the observables."""
    files = [file for one in EXPERIMENT.observables for file in (one.file, one.function) if file]
    made_with = f"{version(1, 'observables', 'sampling', 'directions')}-{named_texts.fingerprint(files)}"

    @dg.asset(
        name="observable_directions",
        group_name=GROUP,
        kinds={"pytorch", "safetensors"},
        code_version=f"{made_with}-{version(1, 'components')}",
        pool=pools.GPU,
    )
    def observable_directions_of_chains(
        context: dg.AssetExecutionContext,
        language_model: LanguageModelFolder,
        population_contexts: pl.LazyFrame,
        response_directions: ComponentFolder,
        experiment: dg.ResourceParam[ExperimentConfig],
        store: dg.ResourceParam[Store],
    ) -> dg.MaterializeResult[ComponentFolder]:
        """Response directions v = E[grad phi] / localization of each observable phi that is named (Baker et al. 2025).

        By the chains, noise and contexts of response_directions. One file a component: what is whole is not made again.
        """
        loaded = language_model.load(experiment.model)
        model, digest = loaded.model, direction_files.model_digest(loaded.model)
        inputs = [store.checked(name) for name in ("language_model", "population_contexts")]
        made_by = f"{made_with}-{'-'.join(m.sha256[:8] for m in inputs)}"
        folder = store.components("observable_directions", None, made_by, suffix=direction_files.SUFFIX)
        chosen = components.chosen(model, experiment.model.components)
        missing = [component for component in chosen if folder.damage(component.name)]
        population, _ = sampling.directions_population(population_contexts, experiment)
        wanted = named_observables.readouts_of(loaded, experiment, population_contexts)
        n_chains = experiment.sampling.n_chains
        rest = {one.name: observable_directions.at_rest(model, one, missing, n_chains=n_chains) for one in wanted}
        for component in progress.track(context, missing, "components", len(missing)):
            path = response_directions.whole(component.name)
            stored = direction_files.load(path, model, component, digest=digest, with_rest=True)
            settings = experiment.sampling.at(stored.localization)
            source = seeds.sequence(experiment.seed, "response_directions", component.name)
            n_contexts = direction_files.diagnostics(path).n_contexts
            parts, known = (model, component, settings), {"n_contexts": n_contexts, "largest": stored.curvature}
            risen = observable_directions.rises(*parts, population, wanted, source, **known)
            own = {name: gradient[component.name] for name, gradient in rest.items()}
            found = observable_directions.found(*parts, experiment.directions, population, own, risen, stored)
            with folder.writing(component.name) as place:
                direction_files.save_observables(place, model, component, found, digest=digest)
        return dg.MaterializeResult(value=folder, metadata={"components": len(chosen), "observables": len(wanted)})

    return observable_directions_of_chains


def along_of(model: Decoder, folder: ComponentFolder, experiment: ExperimentConfig) -> Along:
    """The directions of each observable, of every component."""
    digest, found = direction_files.model_digest(model), {one.name: {} for one in experiment.observables}
    for component in components.chosen(model, experiment.model.components):
        path = folder.whole(component.name)
        for name, stored in direction_files.load_observables(path, model, component, digest=digest).items():
            found[name][component] = stored
    return found


def responses_asset() -> dg.AssetsDefinition:
    """The responses of all tokens by the directions of the observables."""

    @dg.asset(
        partitions_def=SHARDS,
        group_name=GROUP,
        kinds={"pytorch", "parquet"},
        code_version=version(1, "observables", "components"),
        pool=pools.GPU,
    )
    def observable_responses(
        language_model: LanguageModelFolder,
        token_shards: pl.DataFrame,
        observable_directions: ComponentFolder,
        experiment: dg.ResourceParam[ExperimentConfig],
    ) -> dg.MaterializeResult[pl.DataFrame]:
        """Linear response of every token by each observable's directions: -v.(grad l - grad L)(w*), which is -Cov[phi, l - L].

        To first order. Of the loss of one text this is the Bayesian influence function (Kreer et al. 2025). Vectors hold the
        components of the first observable, then those of the next.
        """
        model = language_model.load(experiment.model).model
        along = along_of(model, observable_directions, experiment)
        found = [responses.estimate(model, schema.token_ids(token_shards), own) for own in along.values()]
        half_a, half_b = (np.concatenate([getattr(one, half) for one in found], axis=1) for half in HALVES)
        columns = {"response": (half_a + half_b) / 2, "half_a": half_a, "half_b": half_b}
        frame = schema.with_vectors(schema.token_key_frame(token_shards), **columns)
        return dg.MaterializeResult(value=frame, metadata={"observables": len(along)})

    return observable_responses


def table_asset() -> dg.AssetsDefinition:
    """The table of observables by data changes and clusters."""
    sections = ["observables", "components", *(["data_changes"] if EXPERIMENT.data_changes else [])]

    @dg.asset(
        ins={"observable_responses": dg.AssetIn(partition_mapping=EVERY_SHARD)},
        group_name=GROUP,
        kinds={"pytorch", "polars"},
        code_version=f"{version(2, *sections)}-{named_texts.fingerprint(FILES)}",
        pool=pools.GPU,
    )
    def observable_susceptibilities(
        context: dg.AssetExecutionContext,
        language_model: LanguageModelFolder,
        observable_directions: ComponentFolder,
        observable_responses: dict[str, pl.LazyFrame],
        cluster_members: pl.DataFrame,
        experiment: dg.ResourceParam[ExperimentConfig],
    ) -> dg.MaterializeResult[pl.DataFrame]:
        """Response of each observable to each data change and each cluster: chi = sum q'(xy) chi_xy (Baker et al. 2025).

        The standard error is of the chains, by halves that share nothing, and over documents (Liang and Zeger 1986).
        """
        loaded = language_model.load(experiment.model)
        along = along_of(loaded.model, observable_directions, experiment)
        changes = (*experiment.data_changes, *data_changes.of_clusters(cluster_members))
        names = [component.name for component in next(iter(along.values()))]
        sums = data_changes.empty(len(changes), len(along) * len(names))
        for shard, frame in sorted(observable_responses.items()):
            add_shard(sums, changes, frame.collect(), cluster_members.filter(shard=shard))
        add_files(context, sums, loaded, experiment, list(along.values()))
        table = data_changes.table(changes, names * len(along), sums, n_observables=len(along))
        frame = by_observable(table, list(along), len(names))
        return dg.MaterializeResult(value=frame, metadata={"table": plots.table(frame)})

    return observable_susceptibilities


def by_observable(table: pl.DataFrame, observables: list[str], n_components: int) -> pl.DataFrame:
    """A table of data changes whose components are those of several observables in turn, as schema.OBSERVABLES."""
    number = table["component"] // n_components
    frame = table.with_columns(
        observable=pl.Series(observables).gather(number), component=table["component"] % n_components
    )
    return frame.select(pl.col(name).cast(kind) for name, kind in schema.OBSERVABLES.items())


observable_assets = [directions_asset(), responses_asset(), table_asset()] if EXPERIMENT.observables else []
