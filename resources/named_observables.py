"""The observables that an experiment names, from its files, patterns and functions to readouts. What a readout is: readouts.py.

A function file is Python that runs in this process. It is executed only where the experiment names it.
"""

import fnmatch
import importlib.util
import inspect
import json
from pathlib import Path

import numpy as np
import polars as pl

from resources import experiment_files
from susc_pipeline import beginnings, corpus, lines, schema, tokens
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.corpus import Document
from susc_pipeline.model import pretrained
from susc_pipeline.model.pretrained import LoadedModel
from susc_pipeline.susceptibility import readouts
from susc_pipeline.susceptibility.readouts import Function, Observable, Pair, Readout
from susc_pipeline.tokens import TokenizedDocument


def readouts_of(loaded: LoadedModel, experiment: ExperimentConfig, population: pl.LazyFrame) -> list[Readout]:
    """The readout of each observable that the experiment names, in its order.

    Args:
        loaded: the language model with its tokenizer.
        experiment: that names them.
        population: as schema.POPULATION; read where an observable names documents.

    Raises:
        ValueError: a file cannot be read, or an observable has no context, too many, or answers that are the same.
    """
    return [_readout(observable, loaded, experiment, population) for observable in experiment.observables]


def texts_of(what: str, file: str, loaded: LoadedModel, experiment: ExperimentConfig) -> list[TokenizedDocument]:
    """The texts of a file that the experiment names in tokens, those of two tokens or more.

    Raises:
        ValueError: the file cannot be read; begins with `what` asks for it.
    """
    try:
        place, column = experiment_files.beside(file), experiment.corpus.text_column
        found = tokens.tokenize(corpus.local_files(place, text_column=column), loaded.tokenizer)
    except (ValueError, OSError) as error:
        raise ValueError(f"{what}: {error}") from error
    return [document for document in found if len(document.token_ids) >= 2]


def function_of(observable: Observable) -> Function:
    """The one function of the file that the observable names, which is executed.

    Raises:
        ValueError: the file cannot be read or run, or has no function or several.
    """
    path = experiment_files.beside(observable.function)
    what = f"observable {observable.name!r}: the function file {path}"
    spec = importlib.util.spec_from_file_location("susc_observable", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"{what} is no Python file; name a .py file, relative to the experiment's")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        raise ValueError(f"{what} cannot be run ({type(error).__name__}: {str(error)[:200]}); correct it") from error
    own = [v for v in vars(module).values() if inspect.isfunction(v) and v.__module__ == module.__name__]
    public = [function for function in own if not function.__name__.startswith("_")]
    if len(public) != 1:
        raise ValueError(f"{what} has {len(public)} functions; leave one, and begin the names of others with _")
    return public[0]


def _readout(
    observable: Observable, loaded: LoadedModel, experiment: ExperimentConfig, population: pl.LazyFrame
) -> Readout:
    name, length = observable.name, experiment.tokens.context_length
    if observable.kind == "pairs":
        return readouts.of_pairs(name, _pairs(observable, loaded, length), context_length=length)
    if observable.documents:
        return _of_documents(observable, experiment, population)
    function = function_of(observable) if observable.function else None
    texts = _texts(observable, loaded, experiment)
    is_sampled = observable.kind == "corpus"
    return readouts.of_texts(name, texts, context_length=length, function=function, is_sampled=is_sampled)


def _texts(observable: Observable, loaded: LoadedModel, experiment: ExperimentConfig) -> list[np.ndarray]:
    what, length = f"observable {observable.name!r}", experiment.tokens.context_length
    beginning = pretrained.beginning(loaded.tokenizer)
    if observable.file:
        found = texts_of(what, observable.file, loaded, experiment)
        if not found:
            raise ValueError(f"{what} has no text of two tokens or more in {observable.file}; give a longer one")
        return [beginnings.with_beginnings(document.token_ids, beginning, length) for document in found]
    (text,) = tokens.tokenize([Document(what, observable.text)], loaded.tokenizer)
    whole = beginnings.with_beginnings(text.token_ids, beginning, length)
    if not 2 <= len(whole) <= length:
        raise ValueError(
            f"{what} must have a text of 2 to {length} tokens, tokens.context_length, got {len(whole)}; name a longer "
            f"one by file"
        )
    return [whole]


def _of_documents(observable: Observable, experiment: ExperimentConfig, population: pl.LazyFrame) -> Readout:
    """Each chain reads its own documents, as for the run's observable; where a chain has none of them, all chains read all."""
    rows = population.filter(pl.col("role") == "directions").select("chain", "document_id", "token_ids").collect()
    names = rows["document_id"].unique().to_list()
    matching = [name for name in names if fnmatch.fnmatchcase(name, observable.documents)]
    rows = rows.filter(pl.col("document_id").is_in(matching))
    if not rows.height:
        raise ValueError(
            f"observable {observable.name!r}: no document of the population matches {observable.documents}; shards hold the "
            f"others. Give another pattern, or name texts by file"
        )
    parts = [rows.filter(pl.col("chain") == chain) for chain in range(experiment.sampling.n_chains)]
    chosen = parts if all(part.height for part in parts) else [rows]
    return readouts.of_population(observable.name, [schema.token_ids(part).astype(np.int32) for part in chosen])


def _pairs(observable: Observable, loaded: LoadedModel, context_length: int) -> list[Pair]:
    beginning = pretrained.beginning(loaded.tokenizer)
    path: Path = experiment_files.beside(observable.file)
    what, keys, found = f"observable {observable.name!r}", ("prompt", "good", "bad"), []
    try:
        records = [json.loads(line.decode("utf-8")) for line in lines.of(path) if line.strip()]
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{what}: {path} is not a file of JSON lines ({str(error)[:200]}); correct it") from error
    for number, record in enumerate(records):
        texts = [record.get(key) if isinstance(record, dict) else None for key in keys]
        if not all(isinstance(text, str) and text and corpus.is_text(text) for text in texts):
            raise ValueError(
                f"{what}: line {number + 1} of {path} must have texts under prompt, good and bad; add them"
            )
        # Documents are sorted by name, and these names are in that order.
        encoded = tokens.tokenize(
            [Document(str(place), str(text)) for place, text in enumerate(texts)], loaded.tokenizer
        )
        prompt, *answers = (part.token_ids for part in encoded)
        found.append(Pair(beginnings.with_beginnings(prompt, beginning, context_length), *answers))
    if not found:
        raise ValueError(f"{what}: {path} has no pair; add lines with prompt, good and bad")
    return found
