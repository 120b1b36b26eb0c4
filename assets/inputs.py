"""Model and text: the language model, the token shards, and the population whose mean loss is the observable."""

import dagster as dg
import polars as pl

from assets.partitions import EXPERIMENT, SHARDS, version
from resources import language_model as language_models
from resources import tokenized_corpus
from resources.language_model import LanguageModelFolder
from susc_pipeline import beginnings, near_duplicates, tokens
from susc_pipeline import corpus as corpora
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.tokens import TokenizedDocument

GROUP = "1_model_and_text"
# Of the settings of the chains only their number matters: it decides how many documents the population must have.
SPLIT_VERSION = f"{version(3, 'corpus', 'tokens')}-{EXPERIMENT.sampling.n_chains}"


@dg.asset(group_name=GROUP, kinds={"pytorch", "huggingface"}, code_version=version(1, "model"))
def language_model(experiment: dg.ResourceParam[ExperimentConfig]) -> dg.MaterializeResult[LanguageModelFolder]:
    """The trained model w* and its tokenizer, copied into the store: configuration and safetensors, no code.

    A decoder (Vaswani et al. 2017) of a family that is known here. The loss of a token y after x is l_xy(w) = -log p_w(y | x),
    in nats.
    """
    folder = LanguageModelFolder(language_models.locate(experiment.model))
    model = folder.load(experiment.model).model
    shape = {"layers": model.n_layers, "heads": model.n_heads, "hidden_size": model.hidden_size}
    return dg.MaterializeResult(value=folder, metadata={**shape, "vocabulary_size": model.vocabulary_size})


@dg.asset(
    group_name=GROUP,
    kinds={"polars", "parquet"},
    code_version=f"{version(1, 'corpus')}-{tokenized_corpus.fingerprint(EXPERIMENT.corpus)}",
)
def corpus_documents(experiment: dg.ResourceParam[ExperimentConfig]) -> dg.MaterializeResult[pl.DataFrame]:
    """Name, length and digest of every document of the corpus.

    Its code version holds a fingerprint of the files, so it and all that is made from it show as stale once one changes.
    """
    frame = corpora.table(tokenized_corpus.documents(experiment.corpus))
    counts = {"characters": int(frame["n_characters"].sum())}
    return dg.MaterializeResult(value=frame, metadata=counts)


@dg.sensor(target=[corpus_documents], minimum_interval_seconds=60)
def corpus_files(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Asks for corpus_documents anew when a file of the corpus was added, removed or changed. Off until switched on."""
    found = tokenized_corpus.fingerprint(EXPERIMENT.corpus)
    if found == context.cursor:
        return dg.SkipReason("no file of the corpus has changed")
    context.update_cursor(found)
    return dg.RunRequest(run_key=found)


@dg.asset(partitions_def=SHARDS, group_name=GROUP, kinds={"polars", "parquet"}, code_version=SPLIT_VERSION)
def token_shards(
    context: dg.AssetExecutionContext,
    language_model: LanguageModelFolder,
    corpus_documents: pl.DataFrame,
    experiment: dg.ResourceParam[ExperimentConfig],
) -> dg.MaterializeResult[pl.DataFrame]:
    """Contexts of equal length from documents that belong to this shard alone; a row is a context."""
    documents = _begun(corpus_documents, language_model, experiment)
    frame = tokens.contexts_of_shard(
        documents, experiment.tokens, experiment.seed, context.partition_key, n_chains=experiment.sampling.n_chains
    )
    n_tokens = frame.height * (experiment.tokens.context_length - 1)
    counts = {"documents": frame["document_id"].n_unique(), "tokens": n_tokens}
    return dg.MaterializeResult(value=frame, metadata=counts)


@dg.asset(group_name=GROUP, kinds={"polars", "parquet"}, code_version=SPLIT_VERSION)
def population_contexts(
    language_model: LanguageModelFolder,
    corpus_documents: pl.DataFrame,
    experiment: dg.ResourceParam[ExperimentConfig],
) -> dg.MaterializeResult[pl.DataFrame]:
    """The population of the observable phi(w) = L(w) - L(w*), in nats (Baker et al. 2025): L is the mean loss of its contexts.

    Its documents are in no shard, and no two chains share one. Every draw of a chain reads fresh contexts: those of role
    `directions` estimate the chain's response directions, the draws at which tokens are measured read role `draws`.
    """
    documents = _begun(corpus_documents, language_model, experiment)
    n_chains = experiment.sampling.n_chains
    frame = tokens.population_contexts(documents, experiment.tokens, experiment.seed, n_chains=n_chains)
    parts = frame.partition_by("role", as_dict=True)
    counts = {f"{role}_contexts": part.height for (role,), part in parts.items()}
    counts |= {f"{role}_documents": part["document_id"].n_unique() for (role,), part in parts.items()}
    return dg.MaterializeResult(value=frame, metadata=counts)


@dg.asset(group_name=GROUP, kinds={"polars", "parquet"}, code_version=version(1, "corpus"))
def document_groups(
    language_model: LanguageModelFolder,
    corpus_documents: pl.DataFrame,
    experiment: dg.ResourceParam[ExperimentConfig],
) -> dg.MaterializeResult[pl.DataFrame]:
    """Which documents are near duplicates of each other, by MinHash (Broder 1997): a group number for each document.

    Jaccard index |A and B| / |A or B| >= 1/2 of their runs of eight tokens, and whatever a chain of such pairs joins.
    """
    frame = near_duplicates.document_groups(_tokenized(corpus_documents, language_model, experiment))
    sizes = frame.group_by("document_group").len()["len"]
    counts = {"groups": len(sizes), "documents_with_duplicates": int(sizes.filter(sizes > 1).sum())}
    return dg.MaterializeResult(value=frame, metadata=counts)


def _begun(
    recorded: pl.DataFrame, language_model: LanguageModelFolder, experiment: ExperimentConfig
) -> list[TokenizedDocument]:
    beginning = tokenized_corpus.beginning(language_model.path, experiment.model)
    return beginnings.begun(
        _tokenized(recorded, language_model, experiment), beginning, experiment.tokens.context_length
    )


def _tokenized(
    recorded: pl.DataFrame, language_model: LanguageModelFolder, experiment: ExperimentConfig
) -> list[TokenizedDocument]:
    """The documents in tokens, if they are still those on record."""
    fingerprint = tokenized_corpus.fingerprint(experiment.corpus)
    found = tokenized_corpus.tokenized(experiment.corpus, language_model.path, experiment.model, fingerprint)
    if [document.document_id for document in found] != recorded["document_id"].to_list():
        raise ValueError(
            f"the corpus has {len(found)} documents, not the {recorded.height} of corpus_documents, or other ones; "
            f"materialize corpus_documents again"
        )
    return found
