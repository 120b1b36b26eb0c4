"""Weights of documents that would make the changes that the experiment wants. None named: no asset."""

import dagster as dg
import polars as pl

from assets import plots
from assets.partitions import EVERY_SHARD, EXPERIMENT, version
from assets.questions import GROUP
from resources.language_model import LanguageModelFolder
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components
from susc_pipeline.patterning import wanted_changes as patterning

DESCRIPTIONS = {
    "wanted_changes": "What each wanted change asks of every component's loss, and what the weights of documents are predicted "
    "to do to it, in nats: chi^T (chi chi^T + ridge N)^-1 d (patterning; Wang and Murfet 2026).",
    "document_weights": "The weight of every document for each wanted change, not negative and of mean one, with its error.",
}


def asset() -> dg.AssetsDefinition:
    """The tables of the wanted changes that the experiment names."""
    sections = ("wanted_changes", "sampling", "components")

    @dg.multi_asset(
        ins={"linear_response": dg.AssetIn(partition_mapping=EVERY_SHARD)},
        outs={
            name: dg.AssetOut(kinds={"numpy", "polars"}, code_version=version(2, *sections), description=text)
            for name, text in DESCRIPTIONS.items()
        },
        group_name=GROUP,
    )
    def find_document_weights(
        language_model: LanguageModelFolder,
        linear_response: dict[str, pl.LazyFrame],
        experiment: dg.ResourceParam[ExperimentConfig],
    ):
        """From stored linear responses alone: nothing is sampled, no token is measured."""
        model = language_model.outline(experiment.model).model
        names = [component.name for component in components.chosen(model, experiment.model.components)]
        patterning.require_known(experiment.wanted_changes, names)
        columns = ("document_id", "half_a", "half_b")
        frames = (frame.select(columns).collect() for _, frame in sorted(linear_response.items()))
        documents = patterning.joined([patterning.of_shard(frame) for frame in frames])
        found = patterning.find(experiment.wanted_changes, documents, names, n_beta=experiment.sampling.n_beta)
        asked = found.predictions.filter(pl.col("role") == patterning.ASKED)
        yield dg.Output(found.predictions, "wanted_changes", metadata={"asked": plots.table(asked)})
        yield dg.Output(found.weights, "document_weights", metadata={"documents": len(documents.names)})

    return find_document_weights


wanted_change_assets = [asset()] if EXPERIMENT.wanted_changes else []
