"""The texts and documents that an experiment's data changes and observables name, looked up before anything is sampled."""

import fnmatch
from collections.abc import Iterator, Sequence

import polars as pl

from resources import experiment_files, named_observables
from resources import tokenized_corpus as corpora
from resources.language_model import LanguageModelFolder
from susc_pipeline import beginnings, corpus, tokens
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model.pretrained import LoadedModel
from susc_pipeline.susceptibility import data_changes, readouts
from susc_pipeline.susceptibility.data_changes import DataChange
from susc_pipeline.tokens import TokenizedDocument


def documents_of(change: DataChange, loaded: LoadedModel, experiment: ExperimentConfig) -> list[TokenizedDocument]:
    """The texts of a data change's file in tokens, those of two tokens or more.

    Raises:
        ValueError: the file cannot be read, or holds no such text.
    """
    found = named_observables.texts_of(f"data change {change.name!r}", change.file, loaded, experiment)
    if not found:
        raise ValueError(data_changes.no_token(change))
    return found


def fingerprint(files: Sequence[str]) -> str:
    """What changes when one of these files does; they are named relative to the experiment's own file."""
    return "-".join(corpus.fingerprint(experiment_files.beside(file)) for file in files)


def check(experiment: ExperimentConfig, folder: LanguageModelFolder) -> None:
    """Refuse data changes and observables that read nothing, as far as that can be told before clusters are found.

    Raises:
        ValueError: a file cannot be read, no document matches a pattern, or an observable is not finite; says what would do.
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
    by_pattern = any(observable.documents for observable in experiment.observables)
    population = _population(experiment, folder) if by_pattern else pl.DataFrame()
    for readout in named_observables.readouts_of(loaded, experiment, population.lazy()):
        readouts.require_finite(readout, loaded.model)


def _shard_documents(experiment: ExperimentConfig, folder: LanguageModelFolder) -> Iterator[str]:
    documents, n_chains = _tokenized(experiment, folder), experiment.sampling.n_chains
    for shard in tokens.shard_keys(experiment.tokens):
        found = tokens.contexts_of_shard(documents, experiment.tokens, experiment.seed, shard, n_chains=n_chains)
        yield from found["document_id"]


def _population(experiment: ExperimentConfig, folder: LanguageModelFolder) -> pl.DataFrame:
    documents, n_chains = _tokenized(experiment, folder), experiment.sampling.n_chains
    return tokens.population_contexts(documents, experiment.tokens, experiment.seed, n_chains=n_chains)


def _tokenized(experiment: ExperimentConfig, folder: LanguageModelFolder) -> list[TokenizedDocument]:
    mark = corpora.fingerprint(experiment.corpus)
    found = corpora.tokenized(experiment.corpus, folder.path, experiment.model, mark)
    beginning = corpora.beginning(folder.path, experiment.model)
    return beginnings.begun(found, beginning, experiment.tokens.context_length)
