"""Model and text: the language model, the token shards, and the contexts that drive the chains."""

import dagster as dg
import polars as pl

from assets.partitions import SHARDS, version
from resources import corpus
from resources import language_model as language_models
from resources.storage import LanguageModelFolder
from susc_pipeline import tokens
from susc_pipeline.config import ExperimentConfig

GROUP = "a_corpus"


@dg.asset(group_name=GROUP, kinds={"pytorch", "huggingface"}, code_version=version(1, "model"))
def language_model(experiment: dg.ResourceParam[ExperimentConfig]) -> dg.MaterializeResult[LanguageModelFolder]:
    """The trained model w* and its tokenizer, copied into the store: configuration and safetensors, no code."""
    folder = LanguageModelFolder(language_models.locate(experiment.model))
    model = folder.load(experiment.model).model
    shape = {"layers": model.n_layers, "heads": model.n_heads, "hidden_size": model.hidden_size}
    return dg.MaterializeResult(value=folder, metadata={**shape, "vocabulary_size": model.vocabulary_size})


@dg.asset(
    partitions_def=SHARDS, group_name=GROUP, kinds={"polars", "parquet"}, code_version=version(1, "corpus", "tokens")
)
def token_shards(
    context: dg.AssetExecutionContext,
    language_model: LanguageModelFolder,
    experiment: dg.ResourceParam[ExperimentConfig],
) -> dg.MaterializeResult[pl.DataFrame]:
    """Contexts of equal length from documents that belong to this shard alone; a row is a context."""
    documents = corpus.tokenized(experiment.corpus, language_model.path, experiment.model)
    frame = tokens.contexts_of_shard(documents, experiment.tokens, experiment.seed, context.partition_key)
    n_tokens = frame.height * (experiment.tokens.context_length - 1)
    counts = {"documents": frame["document_id"].n_unique(), "tokens": n_tokens, "dagster/row_count": frame.height}
    return dg.MaterializeResult(value=frame, metadata=counts)


@dg.asset(group_name=GROUP, kinds={"polars", "parquet"}, code_version=version(1, "corpus", "tokens"))
def sampling_contexts(
    language_model: LanguageModelFolder, experiment: dg.ResourceParam[ExperimentConfig]
) -> dg.MaterializeResult[pl.DataFrame]:
    """Contexts outside every shard: gradient minibatches come from role `minibatch`, the mean loss L from `observable`."""
    documents = corpus.tokenized(experiment.corpus, language_model.path, experiment.model)
    frame = tokens.sampling_contexts(documents, experiment.tokens, experiment.seed)
    return dg.MaterializeResult(value=frame, metadata={"dagster/row_count": frame.height})
