"""Files of the text: tokens with cluster and loss, their vectors with errors, their neighbours, and the index of words."""

from collections.abc import Iterator
from pathlib import Path

from susc_pipeline.buckets import Buckets
from susc_pipeline.clustering.knn import StoredGraph
from susc_pipeline.explorer import numbering as corpus_module
from susc_pipeline.explorer import payload, vectors, word_index
from susc_pipeline.explorer.numbering import Corpus, Shards, Tokens
from susc_pipeline.explorer.search_index import Entry
from susc_pipeline.representation.pca import PCABasis

CONTEXTS_PER_FILE = 16


def write(
    data: Path, shards: Shards, corpus: Corpus, members: Buckets, graph: StoredGraph, n_neighbors: int, texts: list[str]
) -> list[Entry]:
    """Write the contexts, and beside them scores, errors of the scores and neighbours of each token.

    Returns:
        The index of words.
    """
    index = word_index.empty()

    def parts() -> Iterator[Tokens]:
        nonlocal index
        first = 0
        for part in corpus_module.tokens(shards, corpus, members):
            index = word_index.updated(index, part, texts, first)
            first += len(part.token_ids)
            yield part

    for number, batch in enumerate(corpus_module.batches(parts(), CONTEXTS_PER_FILE)):
        _write_contexts(data, number, batch, corpus)
        first = number * CONTEXTS_PER_FILE * corpus.tokens_per_context
        near = vectors.strongest_edges(graph.rows(first, first + batch.losses.size), n_neighbors)
        payload.write(data, f"neighbors/{number:05d}", payload.packed(near + 1))
    halves = corpus_module.differences(shards, corpus)
    for number, batch in enumerate(corpus_module.batches(halves, CONTEXTS_PER_FILE)):
        flat = batch.difference.reshape(-1, batch.difference.shape[-1])
        payload.write(data, f"errors/{number:05d}", payload.quantized(flat))
    return word_index.entries(index)


def write_sampled(data: Path, shards: Shards, corpus: Corpus, basis: PCABasis) -> None:
    """What was sampled of the tokens of each context that has any."""
    for number, value in vectors.sampled(shards.truth, basis, corpus):
        payload.write(data, f"truth/{number:05d}", value)


def _write_contexts(data: Path, number: int, batch: Tokens, corpus: Corpus) -> None:
    frame = corpus.contexts.slice(number * CONTEXTS_PER_FILE, CONTEXTS_PER_FILE)
    value = {
        "tokens": payload.packed(batch.token_ids),
        "clusters": payload.packed(batch.clusters),
        "losses": payload.quantized(batch.losses.reshape(-1, 1)),
        "documents": [corpus.documents[d] for d in frame["document"]],
        "starts": frame["start"].to_list(),
    }
    payload.write(data, f"texts/{number:05d}", value)
    payload.write(data, f"scores/{number:05d}", payload.quantized(batch.scores.reshape(batch.losses.size, -1)))
