"""The texts and documents that an experiment's data changes name, looked up before anything is sampled."""

import fnmatch
from collections.abc import Iterator, Sequence

from resources import corpus as corpora
from resources import experiment_files
from resources.language_model import LanguageModelFolder
from susc_pipeline import corpus, tokens
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model.pretrained import LoadedModel
from susc_pipeline.susceptibility import data_changes
from susc_pipeline.susceptibility.data_changes import DataChange
from susc_pipeline.tokens import TokenizedDocument


def documents_of(change: DataChange, loaded: LoadedModel, experiment: ExperimentConfig) -> list[TokenizedDocument]:
    """The texts of a data change's file in tokens, those of two tokens or more.

    Raises:
        ValueError: the file cannot be read, or holds no such text.
    """
    place = experiment_files.beside(change.file)
    try:
        found = tokens.tokenize(corpus.local_files(place, text_column=experiment.corpus.text_column), loaded.tokenizer)
    except ValueError as error:
        raise ValueError(f"data change {change.name!r}: {error}") from error
    long_enough = [document for document in found if len(document.token_ids) >= 2]
    if not long_enough:
        raise ValueError(data_changes.no_token(change))
    return long_enough


def fingerprint(files: Sequence[str]) -> str:
    """What changes when one of these files does; they are named relative to the experiment's own file."""
    return "-".join(corpus.fingerprint(experiment_files.beside(file)) for file in files)


def check(experiment: ExperimentConfig, folder: LanguageModelFolder) -> None:
    """Refuse a data change that has no token, as far as that can be told before clusters are found.

    Raises:
        ValueError: a file cannot be read, or no document of the shards matches a pattern; says what would do.
    """
    loaded = folder.load(experiment.model)
    for change in experiment.data_changes:
        if change.file:
            documents_of(change, loaded, experiment)
    patterns = [change for change in experiment.data_changes if change.documents]
    names = set(_shard_documents(experiment, folder)) if patterns else set()
    for change in patterns:
        if not any(fnmatch.fnmatchcase(name, change.documents) for name in names):
            raise ValueError(data_changes.no_token(change))


def _shard_documents(experiment: ExperimentConfig, folder: LanguageModelFolder) -> Iterator[str]:
    settings, mark = experiment.corpus, corpora.fingerprint(experiment.corpus)
    documents = corpora.tokenized(settings, folder.path, experiment.model, mark)
    for shard in tokens.shard_keys(experiment.tokens):
        n_chains = experiment.sampling.n_chains
        found = tokens.contexts_of_shard(documents, experiment.tokens, experiment.seed, shard, n_chains=n_chains)
        yield from found["document_id"]
