"""Text to token ids, documents to contexts, contexts to shards. Documents are read in corpus.py.

A document belongs to one shard only, or to the sampling contexts: tokens of a document share activations and draws,
so any split finer than a document would leak. The assignment depends on the seed and the documents' names alone.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from susc_pipeline import schema, seeds
from susc_pipeline.config import TokenSettings
from susc_pipeline.corpus import Document

RESERVED_SHARE = 0.2
MINIBATCH_SHARE_OF_RESERVED = 0.75


class TokenizedDocument(NamedTuple):
    """A document's name and its token ids."""

    document_id: str
    token_ids: Int[np.ndarray, " tokens"]


class _Assignment(NamedTuple):
    minibatch: list[TokenizedDocument]
    observable: list[TokenizedDocument]
    shards: list[list[TokenizedDocument]]


def shard_keys(settings: TokenSettings) -> list[str]:
    """Names of all token shards, in order."""
    return [f"shard-{number:05d}" for number in range(settings.n_shards)]


def ground_truth_keys(settings: TokenSettings) -> list[str]:
    """Names of the shards whose susceptibilities are sampled: the leading ones."""
    return shard_keys(settings)[: settings.n_ground_truth_shards]


def training_keys(settings: TokenSettings) -> list[str]:
    """Names of the ground-truth shards that the PCA basis and the auxiliary model are fitted on."""
    return ground_truth_keys(settings)[: -settings.n_validation_shards]


def validation_keys(settings: TokenSettings) -> list[str]:
    """Names of the ground-truth shards withheld from every fit."""
    return ground_truth_keys(settings)[-settings.n_validation_shards :]


def tokenize(documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase) -> list[TokenizedDocument]:
    """Token ids of each document, without special tokens, in order of name.

    Raises:
        ValueError: the tokenizer cannot read a document.
    """
    ordered = sorted(documents)
    texts = [document.text for document in ordered]
    # A list of no texts is an error to the tokenizer, and an empty corpus is reported with more sense further on.
    try:
        encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    except Exception as error:  # the library raises nothing more special
        raise ValueError(
            f"the tokenizer cannot read the corpus ({str(error)[:200]}); use the tokenizer that belongs to the model"
        ) from error
    return [
        TokenizedDocument(document.document_id, np.asarray(ids, dtype=np.int32))
        for document, ids in zip(ordered, encoded, strict=True)
    ]


def contexts_of_shard(
    documents: list[TokenizedDocument], settings: TokenSettings, seed: int, shard: str
) -> pl.DataFrame:
    """The contexts of one shard, as schema.CONTEXTS.

    Raises:
        ValueError: fewer documents than shards, or a shard's documents too short for its contexts.
    """
    number = shard_keys(settings).index(shard)
    assigned = _assign(documents, settings, seed).shards[number]
    first = number * settings.contexts_per_shard
    return _contexts(assigned, settings, seed, settings.contexts_per_shard, first, shard)


def sampling_contexts(documents: list[TokenizedDocument], settings: TokenSettings, seed: int) -> pl.DataFrame:
    """Contexts that drive the chains, from documents outside every shard, with their role.

    The chains draw their gradient minibatches from role `minibatch`; the mean loss is measured on `observable`.
    """
    assignment = _assign(documents, settings, seed)
    first = settings.n_shards * settings.contexts_per_shard
    pool = _contexts(assignment.minibatch, settings, seed, settings.n_minibatch_contexts, first, "minibatch")
    first += settings.n_minibatch_contexts
    fixed = _contexts(assignment.observable, settings, seed, settings.n_observable_contexts, first, "observable")
    roles = [pl.lit(role).alias("role") for role in ("minibatch", "observable")]
    return pl.concat([pool.with_columns(roles[0]), fixed.with_columns(roles[1])])


def _assign(documents: list[TokenizedDocument], settings: TokenSettings, seed: int) -> _Assignment:
    usable = [document for document in documents if len(document.token_ids) >= settings.context_length]
    n_needed = settings.n_shards + 2
    if len(usable) < n_needed:
        raise ValueError(
            f"the corpus has {len(usable)} documents of at least {settings.context_length} tokens "
            f"({len(documents) - len(usable)} shorter ones were left out), but {settings.n_shards} shards and 2 sampling "
            f"sets need {n_needed}; lower tokens.n_shards or tokens.context_length, or add documents"
        )
    order = np.random.default_rng(seeds.sequence(seed, "tokens")).permutation(len(usable))
    shuffled = [usable[rank] for rank in order]
    n_reserved = max(2, min(round(RESERVED_SHARE * len(usable)), len(usable) - settings.n_shards))
    n_minibatch = min(max(1, round(MINIBATCH_SHARE_OF_RESERVED * n_reserved)), n_reserved - 1)
    rest = shuffled[n_reserved:]
    shards = [rest[number :: settings.n_shards] for number in range(settings.n_shards)]
    return _Assignment(shuffled[:n_minibatch], shuffled[n_minibatch:n_reserved], shards)


def _contexts(
    documents: list[TokenizedDocument],
    settings: TokenSettings,
    seed: int,
    n_contexts: int,
    first_id: int,
    purpose: str,
) -> pl.DataFrame:
    length = settings.context_length
    # Places in a document are drawn, or every context would be a head of a file; and one of each document is taken
    # before a second of any: many documents, little of each.
    available = [
        (turn, rank, int(place) * length)
        for rank, document in enumerate(documents)
        for turn, place in enumerate(_places(document, settings, seed))
    ]
    if len(available) < n_contexts:
        raise ValueError(
            f"{purpose} needs {n_contexts} contexts of {length} tokens, but its {len(documents)} documents give "
            f"{len(available)}; lower the number of contexts or shards, raise tokens.max_contexts_per_document "
            f"({settings.max_contexts_per_document}), or add text"
        )
    rows = [
        (
            first_id + number,
            documents[rank].document_id,
            start,
            documents[rank].token_ids[start : start + length].tolist(),
        )
        for number, (_, rank, start) in enumerate(sorted(available)[:n_contexts])
    ]
    return pl.DataFrame(rows, schema=schema.CONTEXTS, orient="row")


def _places(document: TokenizedDocument, settings: TokenSettings, seed: int) -> Int[np.ndarray, " places"]:
    """Numbers of the document's contexts that may be used, in the order of their use."""
    rng = np.random.default_rng(seeds.sequence(seed, "places", document.document_id))
    return rng.permutation(len(document.token_ids) // settings.context_length)[: settings.max_contexts_per_document]
