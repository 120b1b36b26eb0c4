"""One pass over the shards: what each adds to each cluster, set aside by chunk of clusters. Cards are in cards.py."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int

from susc_pipeline import schema
from susc_pipeline.buckets import Buckets
from susc_pipeline.clustering import profiles
from susc_pipeline.explorer import numbering as corpus_module
from susc_pipeline.explorer.numbering import Corpus, Shards, Tokens
from susc_pipeline.representation.pca import PCABasis

CHUNK = 512
LOSS_EDGES = np.append(np.arange(0.0, 12.5, 0.5), np.inf)
SAMPLED = ("susceptibility", "half_a", "half_b")
PREVIEW_BEFORE, PREVIEW_AFTER = 10, 4
COUNTED = np.dtype([("cluster", "<i4"), ("token", "<i4"), ("count", "<i4")])


class Gathered(NamedTuple):
    """What is known of clusters after the pass; the buckets are chunks of CHUNK clusters.

    `documents` holds, for each cluster and document, the sums of predicted scores, of loss, and of half the difference of the
    scores by either half of the chains; `sampled` those of sampled
    susceptibilities, of both halves of the chains, and of the predicted scores of the same tokens; `tokens` how often each
    token is a member. `centres` are mean whitened vectors; `previews` the token ids around the most central member, one
    higher than they are, 0 beyond the context.
    """

    documents: Buckets
    sampled: Buckets
    tokens: Buckets
    centres: Float64[np.ndarray, "clusters directions"]
    loss_histogram: Int[np.ndarray, "clusters bins"]
    previews: Int[np.ndarray, "clusters window"]


class Central(NamedTuple):
    """Where the most central member of each cluster is."""

    context: Int[np.ndarray, " clusters"]
    position: Int[np.ndarray, " clusters"]


def gather(
    shards: Shards, corpus: Corpus, members: Buckets, central: Central, basis: PCABasis, *, folder: Path
) -> Gathered:
    """Pass over all shards, one at a time.

    Sampled susceptibilities are in standard deviations over the tokens behind the basis, from their mean.
    """
    n_clusters, (n_pcs, n_components) = len(central.context), basis.components.shape
    found = Gathered(
        Buckets(folder / "documents", profiles.row_kind(2 * n_pcs + 1)),
        Buckets(folder / "sampled", profiles.row_kind(3 * n_components + n_pcs)),
        Buckets(folder / "tokens", COUNTED),
        np.zeros((n_clusters, _width(shards))),
        np.zeros((n_clusters, len(LOSS_EDGES) - 1), np.int64),
        np.zeros((n_clusters, PREVIEW_BEFORE + 1 + PREVIEW_AFTER), np.int64),
    )
    first = 0
    for shard, tokens in zip(sorted(shards.contexts), corpus_module.tokens(shards, corpus, members)):
        _add_previews(found, central, tokens, first)
        first += len(tokens.token_ids)
        _add_shard(found, shards, corpus, shard, tokens, basis)
    counts = found.loss_histogram.sum(axis=1)
    return found._replace(centres=found.centres / np.maximum(counts, 1)[:, None])


def _width(shards: Shards) -> int:
    first = shards.whitened[min(shards.whitened)].select("whitened").head(1).collect()
    return schema.matrix(first["whitened"]).shape[1]


def _add_shard(found: Gathered, shards: Shards, corpus: Corpus, shard: str, tokens: Tokens, basis: PCABasis) -> None:
    inside = np.flatnonzero(tokens.clusters.ravel() != corpus_module.UNCLUSTERED)
    cluster = tokens.clusters.ravel()[inside]
    by_context = corpus.contexts.filter(shard=shard)["document"].to_numpy()
    document = np.repeat(by_context, corpus.tokens_per_context)[inside].astype(np.int32)
    scores = tokens.scores.reshape(tokens.clusters.size, -1)[inside]
    loss = tokens.losses.ravel()[inside]
    by_half = (
        corpus_module.per_token(table[shard], corpus, shard, ["prediction"])["prediction"].to_numpy()[inside]
        for table in (shards.half_a, shards.half_b)
    )
    difference = (next(by_half) - next(by_half)) / 2
    _append(found.documents, profiles.grouped(cluster, document, scores, loss[:, None], difference))
    _append(found.tokens, _counted(cluster, tokens.token_ids[:, 1:].ravel()[inside]))
    whitened = corpus_module.per_token(shards.whitened[shard], corpus, shard, ["whitened"])["whitened"].to_numpy()
    np.add.at(found.centres, cluster, whitened[inside])
    bins = np.clip(np.digitize(loss, LOSS_EDGES) - 1, 0, found.loss_histogram.shape[1] - 1)
    np.add.at(found.loss_histogram, (cluster, bins), 1)
    if shard in shards.truth:
        sampled = [_standardized(shards, corpus, shard, name, basis)[inside] for name in SAMPLED]
        _append(found.sampled, profiles.grouped(cluster, document, *sampled, scores))


def _standardized(
    shards: Shards, corpus: Corpus, shard: str, name: str, basis: PCABasis
) -> Float32[np.ndarray, "tokens components"]:
    values = corpus_module.per_token(shards.truth[shard], corpus, shard, [name])[name].to_numpy()
    return (values - basis.mean.astype(np.float32)) / basis.scale.astype(np.float32)


def _append(buckets: Buckets, rows: np.ndarray) -> None:
    buckets.add(rows["cluster"] // CHUNK, rows)


def _counted(cluster: Int[np.ndarray, " members"], token: Int[np.ndarray, " members"]) -> np.ndarray:
    """How often each token is in each cluster, as COUNTED."""
    pairs, counts = np.unique(cluster.astype(np.int64) << 32 | token, return_counts=True)
    rows = np.zeros(len(pairs), COUNTED)
    rows["cluster"], rows["token"], rows["count"] = pairs >> 32, pairs & 0xFFFFFFFF, counts
    return rows


def _add_previews(found: Gathered, central: Central, tokens: Tokens, first: int) -> None:
    chosen = np.flatnonzero((central.context >= first) & (central.context < first + len(tokens.token_ids)))
    places = central.position[chosen][:, None] + np.arange(-PREVIEW_BEFORE, PREVIEW_AFTER + 1)
    inside = (places >= 0) & (places < tokens.token_ids.shape[1])
    rows = (central.context[chosen] - first)[:, None]
    found.previews[chosen] = np.where(inside, tokens.token_ids[rows, np.where(inside, places, 0)] + 1, 0)
