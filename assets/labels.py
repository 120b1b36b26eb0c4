"""What each cluster is, in words. The clusters are in clusters.py, the groups of near duplicates in corpus.py."""

import dagster as dg
import polars as pl

from assets.clusters import GROUP
from assets.partitions import EVERY_SHARD, version
from resources.language_model import LanguageModelFolder
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.labels import table
from susc_pipeline.model.pretrained import token_texts


@dg.asset(
    ins={"token_shards": dg.AssetIn(partition_mapping=EVERY_SHARD)},
    group_name=GROUP,
    kinds={"scikitlearn", "polars"},
    code_version=version(1, "seed"),
)
def cluster_labels(
    language_model: LanguageModelFolder,
    token_shards: dict[str, pl.LazyFrame],
    cluster_members: pl.DataFrame,
    document_groups: pl.DataFrame,
    experiment: dg.ResourceParam[ExperimentConfig],
) -> dg.MaterializeResult[pl.DataFrame]:
    """The rule over a token's context that tells a cluster's members best from all other tokens, in words, with its score.

    Learned on half of the documents (near duplicates on one side), scored on the other: precision, recall, F1 = 2 hits /
    (taken + members), and gain = F1 - F1 of the best rule that knows the token's text alone, with a 95 % interval over
    documents by the jackknife (Tukey 1958). Rules are paths of decision trees with rates for values (Micci-Barreca 2001).
    """
    loaded = language_model.outline(experiment.model)
    texts = token_texts(loaded.tokenizer, loaded.model.vocabulary_size)
    frame = table.label_clusters(token_shards, cluster_members, document_groups, texts, seed=experiment.seed)
    counts = {"scored": int(frame["gain"].count()), "beyond_the_token": int((frame["gain_low"] > 0).sum())}
    return dg.MaterializeResult(value=frame, metadata=counts)
