"""What a user asks beyond clusters: susceptibilities of data distributions that the experiment names. None named: no asset."""

from collections.abc import Mapping, Sequence

import dagster as dg
import numpy as np
import polars as pl

from assets import plots, pools, progress
from assets.partitions import EVERY_SHARD, EXPERIMENT, version
from resources import named_texts
from resources.component_folder import ComponentFolder
from resources.language_model import LanguageModelFolder
from susc_pipeline import schema
from susc_pipeline.clustering.profiles import Sums
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components, pretrained
from susc_pipeline.model.components import Component
from susc_pipeline.model.pretrained import LoadedModel
from susc_pipeline.own_text import measurement
from susc_pipeline.susceptibility import data_changes, direction_files
from susc_pipeline.susceptibility.data_changes import DataChange
from susc_pipeline.susceptibility.direction_files import StoredDirections

GROUP = "8_questions"
HALVES = ("half_a", "half_b")
FILES = [change.file for change in EXPERIMENT.data_changes if change.file]


def data_change_asset() -> dg.AssetsDefinition:
    """The table of the data changes that the experiment names."""

    @dg.asset(
        ins={"linear_response": dg.AssetIn(partition_mapping=EVERY_SHARD)},
        group_name=GROUP,
        kinds={"pytorch", "polars"},
        code_version=f"{version(2, 'data_changes', 'linear_response', 'components')}-{named_texts.fingerprint(FILES)}",
        pool=pools.GPU,
    )
    def data_change_susceptibilities(
        context: dg.AssetExecutionContext,
        language_model: LanguageModelFolder,
        response_directions: ComponentFolder,
        linear_response: dict[str, pl.LazyFrame],
        cluster_members: pl.DataFrame,
        experiment: dg.ResourceParam[ExperimentConfig],
    ) -> dg.MaterializeResult[pl.DataFrame]:
        """Response of each component to each data distribution q' that the experiment names: chi(q') = sum q'(xy) chi_xy.

        It is d<phi>/d(eps) / n_beta where the loss is L + eps (L_q' - L) (Baker et al. 2025): a mean of linear responses, those
        of texts outside the shards measured here. The standard error is of the chains, by halves that share nothing, and over
        documents (Liang and Zeger 1986). The clusters are measured too, for the error of the chains is pooled over them.
        """
        # Texts of files are measured, which takes the weights.
        loaded = language_model.load(experiment.model) if FILES else language_model.outline(experiment.model)
        changes = (*experiment.data_changes, *data_changes.of_clusters(cluster_members))
        chosen = components.chosen(loaded.model, experiment.model.components)
        sums = data_changes.empty(len(changes), len(chosen))
        for shard, frame in sorted(linear_response.items()):
            add_shard(sums, changes, frame.collect(), cluster_members.filter(shard=shard))
        if FILES:
            places, n_scores = response_directions.path, experiment.linear_response.n_scores
            for component in chosen:
                response_directions.whole(component.name)
            along = direction_files.halves(places, loaded.model, chosen, n_scores=n_scores)
            add_files(context, sums, loaded, experiment, [along])
        table = data_changes.table(changes, [component.name for component in chosen], sums)
        table = table.head(len(experiment.data_changes) * len(chosen))
        return dg.MaterializeResult(value=table, metadata={"table": plots.table(table)})

    return data_change_susceptibilities


def add_shard(sums: Sums, changes: Sequence[DataChange], tokens: pl.DataFrame, members: pl.DataFrame) -> None:
    """Add the tokens of a shard that data changes have; its members of clusters say which are in a cluster."""
    numbers, rows = data_changes.chosen_tokens(changes, tokens, members)
    documents = tokens["document_id"].rank("dense").cast(pl.Int64).to_numpy()[rows]
    half_a, half_b = (schema.matrix(tokens[half])[rows] for half in HALVES)
    data_changes.add(sums, numbers, documents, half_a, half_b)


def add_files(
    context: dg.AssetExecutionContext,
    sums: Sums,
    loaded: LoadedModel,
    experiment: ExperimentConfig,
    along: Sequence[Mapping[Component, StoredDirections]],
) -> None:
    """Add the texts of the data changes that name a file, measured by one set of directions after another."""
    how = {"context_length": experiment.tokens.context_length, "beginning": pretrained.beginning(loaded.tokenizer)}
    for number, change in enumerate(experiment.data_changes):
        texts = named_texts.documents_of(change, loaded, experiment) if change.file else []
        for document, text in enumerate(progress.track(context, texts, f"texts of {change.name}", len(texts))):
            parts = [measurement.whole_document(loaded.model, own, text.token_ids, **how) for own in along]
            half_a, half_b = (np.concatenate([getattr(part, half) for part in parts], axis=1) for half in HALVES)
            whose, of_document = (np.full(len(half_a), each) for each in (number, document))
            data_changes.add(sums, whose, of_document, half_a, half_b)


data_change_assets = [data_change_asset()] if EXPERIMENT.data_changes else []
