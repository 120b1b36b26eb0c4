"""What each component does to the tokens: the extreme ones, its means by position and kind of document, its companions.

One pass over the shards. A response is the predicted score times the axes of the basis, in standard deviations over tokens
from the mean token; its error is half the difference of the responses by either half of the chains. The files are a
component each, as large as the settings here say whatever the corpus. Clusters by component are in means.py.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64, Int

from susc_pipeline import schema
from susc_pipeline.clustering import profiles
from susc_pipeline.clustering.profiles import Profile, Sums
from susc_pipeline.explorer import extremes, payload
from susc_pipeline.explorer import numbering as corpus_module
from susc_pipeline.explorer.extremes import Extremes
from susc_pipeline.explorer.numbering import Corpus, Shards
from susc_pipeline.representation.pca import PCABasis

N_EXTREME = 60
N_KINDS = 16
MIN_DOCUMENTS = 3  # of a kind: fewer give no interval worth showing
N_COMPANIONS = 10
TOKENS_AT_ONCE = 4096
LISTS = ("expressed", "suppressed", "measuredExpressed", "measuredSuppressed")


class Products(NamedTuple):
    """Sums over tokens of scores by even chains, by odd chains, and of their products."""

    count: Int[np.ndarray, ""]
    even: Float64[np.ndarray, " pcs"]
    odd: Float64[np.ndarray, " pcs"]
    both: Float64[np.ndarray, "pcs pcs"]


class Sampled(NamedTuple):
    """Sums over the tokens that were sampled: of what was measured, of the responses, of their squares and products."""

    count: Int[np.ndarray, ""]
    measured: Float64[np.ndarray, " components"]
    response: Float64[np.ndarray, " components"]
    measured_squared: Float64[np.ndarray, " components"]
    response_squared: Float64[np.ndarray, " components"]
    product: Float64[np.ndarray, " components"]


class Responses(NamedTuple):
    """What the pass has found. `lists` are LISTS; `by_position` and `by_kind` are means of responses by group.

    The columns of the sums are the responses of all components, then half their differences by the halves of the chains.
    `squared_error` is summed over all tokens.
    """

    lists: tuple[Extremes, ...]
    by_position: Sums
    by_kind: Sums
    products: Products
    sampled: Sampled
    squared_error: Float64[np.ndarray, " components"]


class Block(NamedTuple):
    """Some tokens of a shard, a row each; `measured`, in nats squared, is missing where they were not sampled."""

    token: Int[np.ndarray, " tokens"]
    token_id: Int[np.ndarray, " tokens"]
    scores: Float64[np.ndarray, "tokens pcs"]
    difference: Float64[np.ndarray, "tokens pcs"]
    measured: Float32[np.ndarray, "tokens components"] | None
    measured_error: Float32[np.ndarray, "tokens components"] | None


def octaves(n_positions: int) -> Int[np.ndarray, " groups"]:
    """First position of each group of positions: 1, 2, 3 to 4, 5 to 8 and so on."""
    return np.array([1, *(2**power + 1 for power in range((n_positions - 2).bit_length()))])


def kinds(corpus: Corpus) -> dict[str, int]:
    """Kinds of documents, by outermost folder, with their number of documents: those of most tokens; none where but one is.

    A kind needs MIN_DOCUMENTS documents; at most N_KINDS are kept.
    """
    per_document = corpus.contexts.group_by("document").agg(contexts=pl.len()).sort("document")
    source = pl.Series("kind", [corpus_module.source(corpus.documents[d]) for d in per_document["document"]], pl.String)
    counted = per_document.with_columns(source).group_by("kind").agg(pl.len(), pl.col("contexts").sum())
    enough = counted.filter(pl.col("len") >= MIN_DOCUMENTS).sort(["contexts", "kind"], descending=[True, False])
    found = dict(enough.head(N_KINDS).select("kind", "len").iter_rows())
    return found if len(found) > 1 else {}


def respond(shards: Shards, corpus: Corpus, basis: PCABasis) -> Responses:
    """Pass over all shards; held at once are one of them, TOKENS_AT_ONCE responses to all components, and the sums."""
    n_pcs, n_components = basis.components.shape
    named = kinds(corpus)
    firsts = octaves(corpus.n_positions)
    found = Responses(
        tuple(extremes.empty(n_components, N_EXTREME) for _ in LISTS),
        profiles.empty(len(firsts), 2 * n_components),
        profiles.empty(len(named), 2 * n_components),
        Products(np.zeros((), np.int64), np.zeros(n_pcs), np.zeros(n_pcs), np.zeros((n_pcs, n_pcs))),
        Sampled(np.zeros((), np.int64), *(np.zeros(n_components) for _ in Sampled._fields[1:])),
        np.zeros(n_components),
    )
    position = np.arange(1, corpus.n_positions)
    group = np.searchsorted(firsts, position, side="right") - 1
    number_of = {name: number for number, name in enumerate(named)}
    kind = np.array([number_of.get(corpus_module.source(name), -1) for name in corpus.documents], np.int32)
    first = 0
    for shard in sorted(shards.contexts):
        document = corpus.contexts.filter(shard=shard)["document"].to_numpy().astype(np.int32)
        groups, documents = np.tile(group, len(document)), np.repeat(document, corpus.tokens_per_context)
        scores, difference = _scores(shards, corpus, shard)
        _add_group(found.by_position, groups, documents, scores, difference, basis)
        inside = np.flatnonzero(kind[documents] >= 0)
        _add_group(found.by_kind, kind[documents][inside], documents[inside], scores[inside], difference[inside], basis)
        _add_products(found.products, scores, difference)
        for block in _blocks(shards, corpus, shard, first, scores, difference):
            _add_block(found, block, basis)
        first += len(documents)
    return found


def write(data: Path, found: Responses, corpus: Corpus, basis: PCABasis) -> None:
    """A file for each component: `responses/<number>`."""
    n_components, named = len(basis.mean), kinds(corpus)
    position, kind = (_profile(sums, n_components) for sums in (found.by_position, found.by_kind))
    noiseless, first, second = companions(found.products, basis)
    firsts, agreement = octaves(corpus.n_positions), correlation(found.sampled)
    n_tokens = max(int(found.products.count), 1)
    for number in range(n_components):
        order = np.argsort(-np.abs(np.nan_to_num(noiseless[number])), kind="stable")
        near = order[order != number][:N_COMPANIONS]
        value: dict[str, Any] = {
            name: extremes.listed(one, number) for name, one in zip(LISTS, found.lists, strict=True)
        }
        value |= {
            "sampled": int(found.sampled.count),
            "agreement": None if np.isnan(agreement[number]) else float(f"{agreement[number]:.4g}"),
            "error": float(f"{np.sqrt(found.squared_error[number] / n_tokens):.4g}"),
            "positions": {
                "first": firsts.tolist(),
                "last": [*(firsts[1:] - 1).tolist(), corpus.n_positions - 1],
                **_means(position, number),
            },
            "kinds": {"names": list(named), "documents": list(named.values()), **_means(kind, number)},
            "companions": {
                "component": near.tolist(),
                "r": payload.quantized(np.stack([r[number, near] for r in (noiseless, first, second)], axis=1)),
            },
        }
        payload.write(data, f"responses/{number:04d}", value)


def companions(products: Products, basis: PCABasis) -> list[Float64[np.ndarray, "components components"]]:
    """Correlations over tokens between components without the noise of the chains, from halves that share nothing.

    With c_ij the covariance of component i by even chains with j by odd ones: (c_ij + c_ji) / 2 over sqrt(c_ii c_jj), and
    the same with c_ij and with c_ji alone, whose difference shows the error. Missing where c_ii is not positive: there the
    halves do not agree on the component. Chance can push a number past 1.
    """
    n = max(int(products.count), 1)
    covariance = products.both / n - np.outer(products.even, products.odd) / n**2
    crossed = basis.components.T @ covariance @ basis.components
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.sqrt(np.where(np.diag(crossed) > 0, np.diag(crossed), np.nan))
        return [one / np.outer(scale, scale) for one in ((crossed + crossed.T) / 2, crossed, crossed.T)]


def correlation(sampled: Sampled) -> Float64[np.ndarray, " components"]:
    """Pearson r of responses with sampled susceptibilities over the sampled tokens; nan where one of them is constant."""
    n = max(int(sampled.count), 1)
    covariance = sampled.product / n - sampled.measured * sampled.response / n**2
    variances = (
        squared / n - (total / n) ** 2
        for squared, total in (
            (sampled.measured_squared, sampled.measured),
            (sampled.response_squared, sampled.response),
        )
    )
    scale = np.sqrt(np.maximum(next(variances) * next(variances), 0))
    return np.divide(covariance, scale, out=np.full_like(scale, np.nan), where=scale > 0)


def _scores(shards: Shards, corpus: Corpus, shard: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a shard's tokens, and half their difference by the halves of the chains."""
    whole, even, odd = (
        corpus_module.per_token(table[shard], corpus, shard, ["prediction"])["prediction"].to_numpy().astype(np.float64)
        for table in (shards.predictions, shards.half_a, shards.half_b)
    )
    return whole, (even - odd) / 2


def _add_group(
    sums: Sums,
    group: Int[np.ndarray, " tokens"],
    document: Int[np.ndarray, " tokens"],
    scores: Float64[np.ndarray, "tokens pcs"],
    difference: Float64[np.ndarray, "tokens pcs"],
    basis: PCABasis,
) -> None:
    rows = profiles.grouped(group, document, scores, difference)
    total = rows["total"].astype(np.float64)
    parts = [half @ basis.components for half in np.split(total, 2, axis=1)]
    profiles.add(sums, rows["cluster"], rows["count"], np.concatenate(parts, axis=1))


def _add_products(
    found: Products, scores: Float64[np.ndarray, "tokens pcs"], difference: Float64[np.ndarray, "tokens pcs"]
) -> None:
    even, odd = scores + difference, scores - difference
    for sums, part in zip(found, (len(scores), even.sum(axis=0), odd.sum(axis=0), even.T @ odd), strict=True):
        sums += part


def _blocks(
    shards: Shards, corpus: Corpus, shard: str, first: int, scores: np.ndarray, difference: np.ndarray
) -> Iterator[Block]:
    token_id = schema.token_ids(shards.contexts[shard].select("token_ids").collect())[:, 1:].ravel()
    measured = error = None
    if shard in shards.truth:
        truth = corpus_module.per_token(shards.truth[shard], corpus, shard, ["susceptibility", "standard_error"])
        measured, error = truth["susceptibility"].to_numpy(), truth["standard_error"].to_numpy()
    token = np.arange(first, first + len(token_id))
    for start in range(0, len(token_id), TOKENS_AT_ONCE):
        rows = slice(start, start + TOKENS_AT_ONCE)
        parts = (token, token_id, scores, difference, measured, error)
        yield Block(*(part if part is None else part[rows] for part in parts))


def _add_block(found: Responses, block: Block, basis: PCABasis) -> None:
    response, error = block.scores @ basis.components, np.abs(block.difference @ basis.components)
    found.squared_error[:] += (error**2).sum(axis=0)
    values = np.full((*response.shape, len(extremes.VALUES)), np.nan, np.float32)
    values[:, :, 0], values[:, :, 1] = response, error
    keys = [-response, response]
    if block.measured is not None and block.measured_error is not None:
        measured = (block.measured - basis.mean) / basis.scale
        values[:, :, 2], values[:, :, 3] = measured, block.measured_error / basis.scale
        keys += [-measured, measured]
        own, squares = (measured, response), (measured**2, response**2, measured * response)
        parts = (len(response), *(one.sum(axis=0) for one in (*own, *squares)))
        for sums, part in zip(found.sampled, parts, strict=True):
            sums += part
    for kept, key in zip(found.lists, keys, strict=False):
        extremes.add(kept, key, block.token, block.token_id, values)


def _profile(sums: Sums, n_components: int) -> Profile:
    """Means of the responses by group, with the error over documents and that of the chains."""
    both = profiles.profile(sums)
    return profiles.widened(Profile(*(one[:, :n_components] for one in both)), both.mean[:, n_components:])


def _means(profile: Profile, component: int) -> dict[str, Any]:
    own = (one[:, component, None] for one in (profile.mean, profile.half_width))
    return {name: payload.quantized(values) for name, values in zip(("mean", "half"), own, strict=True)}
