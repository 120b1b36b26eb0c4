"""The Polars schema of every stored table: the only place where column names are spelled.

Paths are in resources/storage.py. A token is keyed by its context and its position there; its loss and its
susceptibility are those of predicting it from the tokens before it. Losses are in nats.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int

DOCUMENTS = {
    "document_id": pl.String,
    "n_characters": pl.Int64,
    "sha256": pl.String,  # of the text in UTF-8
}
CONTEXTS = {
    "context_id": pl.Int64,  # unique in the experiment
    "document_id": pl.String,
    "start": pl.Int64,  # tokens of the document before the context
    "token_ids": pl.List(pl.Int32),
}
ROLE = {"role": pl.String}  # of a sampling context: minibatch or observable
TOKEN_KEY = {
    "context_id": pl.Int64,
    "position": pl.Int32,  # from 1: the first token of a context is not predicted
    "document_id": pl.String,
    "token_id": pl.Int32,
}
ACTIVATIONS = ("activation", "loss_gradient")
LOSS = {"loss": pl.Float32}  # of the token at the trained weights
CLUSTERS = {
    "cluster": pl.Int32,
    "size": pl.Int64,
    "volume": pl.Float64,
    "conductance": pl.Float64,
    "density": pl.Float64,
    "seed_stability": pl.Float64,  # share of looks from other members that find the cluster again
    "point_stability": pl.Float64,  # the same in graphs without a tenth of the points
    "chain_stability": pl.Float64,  # the same in the graph by one half of the chains
    "seed_context_id": pl.Int64,
    "seed_position": pl.Int32,
}
MEMBERS = {
    "cluster": pl.Int32,
    "rank": pl.Int32,  # 0 is the most central, by PageRank over degree
    "shard": pl.String,
    "context_id": pl.Int64,
    "position": pl.Int32,
}
AGREEMENT = {
    "first": pl.String,  # a clustering, by the space that it was found in
    "second": pl.String,
    "first_clusters": pl.Int64,
    "second_clusters": pl.Int64,
    "adjusted_rand_index": pl.Float64,  # unclustered tokens count as one more cluster of each
    "first_matched": pl.Float64,  # share of the first's clusters that have a match of Jaccard 1/2 in the second
    "second_matched": pl.Float64,
}
LAYOUT = {
    "shard": pl.String,
    "context_id": pl.Int64,
    "position": pl.Int32,
    "x": pl.Float32,  # of no unit: only nearness on the map means something
    "y": pl.Float32,
}
CALIBRATION = {
    "component": pl.String,
    "step_size": pl.Float64,
    "n_beta": pl.Float64,
    "localization": pl.Float64,
    "curvature": pl.Float64,  # largest Hessian eigenvalue at the trained weights, from below
    "max_step_size": pl.Float64,  # what the curvature allows; larger steps are divided
    "r_hat": pl.Float64,  # of the mean loss
    "effective_share": pl.Float64,  # effective sample size over the number of draws
    "rise": pl.Float64,  # of the mean loss over that at the trained weights, in nats
    "llc": pl.Float64,
    "llc_error": pl.Float64,
    "acceptance": pl.Float64,  # of a Metropolis test of the step
    "half_correlation": pl.Float64,  # over tokens, of the susceptibilities from two halves of the chains
    "verdict": pl.String,
    "remedy": pl.String,
}
CONTROL = {
    "component": pl.String,
    "correlation": pl.Float64,  # over tokens, of the susceptibility with that at n_beta = 0
    "reliability": pl.Float64,  # of the susceptibility, same tokens
    "control_reliability": pl.Float64,
    "disattenuated": pl.Float64,  # correlation over the root of both reliabilities
}
RELIABILITY = {
    "kind": pl.String,  # component or pc
    "name": pl.String,
    "half_correlation": pl.Float64,
    "reliability": pl.Float64,  # Spearman-Brown corrected, of all draws
    "ceiling": pl.Float64,  # square root of reliability
}


class View(NamedTuple):
    """A stored table as the warehouse shows it."""

    meaning: str
    columns: tuple[str, ...]


VIEWS = {
    "contexts": View("The texts in tokens, a row for each context of every shard.", tuple(CONTEXTS)),
    "sampling_contexts": View("Contexts outside all shards, from which the chains are driven.", (*CONTEXTS, *ROLE)),
    "vocabulary": View("The text of each token id.", ("token_id", "text")),
    "susceptibilities": View(
        "How each component responds to each ground-truth token.",
        (*TOKEN_KEY, "susceptibility", "standard_error", "half_a", "half_b"),
    ),
    "activations": View("What the auxiliary model reads of each ground-truth token.", (*TOKEN_KEY, *ACTIVATIONS)),
    "predictions": View("Scores that the auxiliary model predicts for every token.", (*TOKEN_KEY, *LOSS, "prediction")),
    "whitened": View("Predicted scores after whitening: the points that are clustered.", (*TOKEN_KEY, "whitened")),
    "reliability": View(
        "How well the draws determine each component and each principal component.", tuple(RELIABILITY)
    ),
    "aux_correlation": View(
        "How well each principal component is predicted, on withheld documents.",
        ("pc", "r", "low", "high", "ceiling", "null_95", "ridge_r"),
    ),
    "leakage": View(
        "How much of the activations is in measured and in predicted susceptibilities, layer by layer.",
        (
            *("space", "layer", "cka", "cka_low", "cka_high", "cka_chance", "cka_chance_high"),
            *("jaccard", "jaccard_low", "jaccard_high", "jaccard_chance"),
        ),
    ),
    "clusters": View("The clusters, by rising conductance.", tuple(CLUSTERS)),
    "cluster_members": View("The tokens of each cluster, most central first.", tuple(MEMBERS)),
    "cluster_agreement": View(
        "How alike clusterings of the ground-truth tokens are, two spaces a row.", tuple(AGREEMENT)
    ),
    "member_contexts": View(
        "The tokens of each cluster as text.",
        ("cluster", "rank", "token", "before", "after", "document_id", "context_id", "position", "shard"),
    ),
}
MEANINGS = {
    "activation": "residual stream after the chosen layers, one after another; no unit",
    "adjusted_rand_index": "1 for equal clusterings, about 0 for unrelated ones; unclustered tokens count as one more cluster",
    "after": "text of the five tokens behind",
    "before": "text of at most 15 tokens before",
    "ceiling": "largest correlation that noise allows: the square root of the reliability",
    "cka": "linear CKA with the activations, 0 to 1",
    "chain_stability": "share of searches in the graph by one half of the chains that find the cluster again; 0 to 1",
    "cka_chance": "mean CKA after the tokens are permuted",
    "cka_chance_high": "97.5 % point of the CKA after the tokens are permuted",
    "cka_high": "upper end of its 95 % interval over documents",
    "cka_low": "lower end of its 95 % interval over documents",
    "cluster": "number of the cluster, from 0 by rising conductance",
    "conductance": "leaving / (leaving + staying) edge weight, 0 to 1",
    "context_id": "number of the context, unique in the experiment",
    "density": "edge weight among the members, over the number of their pairs",
    "document_id": "name of the document",
    "first": "a clustering, by the space that it was found in",
    "first_clusters": "number of clusters of the first",
    "first_matched": "share of the first's clusters with a match of Jaccard index 1/2 or more in the second",
    "half_a": "susceptibility by the first half of the chains, an entry for each component; nats squared",
    "half_b": "susceptibility by the second half of the chains; nats squared",
    "half_correlation": "Pearson r over tokens between the halves of the chains",
    "high": "upper end of the 95 % interval of r, over documents",
    "jaccard": "mean Jaccard index of nearest neighbours with those by activations, 0 to 1",
    "jaccard_chance": "expectation of that index for random neighbours",
    "jaccard_high": "upper end of its 95 % interval over documents",
    "jaccard_low": "lower end of its 95 % interval over documents",
    "kind": "component or pc",
    "layer": "layer behind which the activations are, counted from 1",
    "loss": "of the token at the trained weights, given the tokens before it; nats",
    "loss_gradient": "gradient of the token's loss by the last residual of the position before; nats per unit of it",
    "low": "lower end of the 95 % interval of r, over documents",
    "name": "of the component or principal component; components in the order of the entries of susceptibility",
    "null_95": "95 % point of r when documents are permuted",
    "pc": "number of the principal component, from 1",
    "point_stability": "share of searches in graphs without a tenth of the points that find the cluster again; 0 to 1",
    "position": "of the token in its context, from 0; position 0 is not predicted",
    "prediction": "score on each principal component of z-scored susceptibilities; standard deviations",
    "r": "Pearson r of predicted with measured scores on withheld documents",
    "rank": "of the member in its cluster; 0 is the most central, by PageRank over degree",
    "reliability": "squared correlation with what endless chains would give, from halves (Spearman-Brown)",
    "ridge_r": "the same r for ridge regression",
    "role": "minibatch (gradients) or observable (the mean loss L)",
    "second": "the other clustering",
    "second_clusters": "number of clusters of the second",
    "second_matched": "share of the second's clusters with a match in the first",
    "seed_context_id": "context of the token from which the cluster was found",
    "seed_position": "position of that token",
    "seed_stability": "share of searches from other members that find the cluster again; 0 to 1",
    "shard": "token shard that the context is in",
    "size": "number of tokens",
    "space": "ground_truth or prediction",
    "standard_error": "of the susceptibility, over chains; nats squared",
    "start": "number of tokens of the document before the context",
    "susceptibility": "minus the covariance of the component's loss with the token's, an entry for each component; nats squared",
    "text": "of the token, unreadable bytes as hexadecimal in angle brackets",
    "token": "text of the token",
    "token_id": "number of the token in the vocabulary",
    "token_ids": "the tokens of the context, in order",
    "volume": "sum of the members' weighted degrees",
    "whitened": "score along each kept direction; standard deviations over tokens",
}


SLOPES = ("score", "mean_slope", "token_slopes")


def loss_traces(n_tokens: int, *, slopes: bool) -> dict[str, object]:
    """Losses under every draw of one component's chains: a row is a draw, steps are counted from the trained weights."""
    columns = {
        "component": pl.String,
        "chain": pl.Int16,
        "draw": pl.Int32,
        "step": pl.Int32,
        "mean_loss": pl.Float64,  # of the observable set, under the draw
        "init_loss": pl.Float64,  # of the observable set, at the trained weights
        "score": pl.Float64,  # slope of the negative log posterior along the chain's direction v
        "mean_slope": pl.Float64,  # slope of the mean loss along v
        "token_losses": pl.Array(pl.Float32, n_tokens),
        "token_slopes": pl.Array(pl.Float32, n_tokens),
    }
    return columns if slopes else {name: kind for name, kind in columns.items() if name not in SLOPES}


def token_key_frame(contexts: pl.DataFrame) -> pl.DataFrame:
    """The keys of every predicted token of a table of contexts, a context after another."""
    exploded = contexts.select("context_id", "document_id", "token_ids").with_columns(
        position=pl.int_ranges(pl.col("token_ids").list.len(), dtype=pl.Int32)
    )
    tokens = exploded.explode("token_ids", "position").filter(pl.col("position") > 0)
    return tokens.select("context_id", "position", "document_id", pl.col("token_ids").alias("token_id"))


def token_ids(contexts: pl.DataFrame) -> Int[np.ndarray, "contexts positions"]:
    """Token ids of a table of contexts, which all have one length."""
    return np.asarray(contexts["token_ids"].to_list(), dtype=np.int64)


def matrix(column: pl.Series, dtype: type[np.floating] = np.float32) -> Float[np.ndarray, "rows width"]:
    """The vectors of an Array column as a matrix."""
    return column.to_numpy().astype(dtype, copy=False)


def with_vectors(
    keys: pl.DataFrame, *, half_precision: bool = False, **columns: Float[np.ndarray, "tokens _"]
) -> pl.DataFrame:
    """The keys with one Array column for each matrix given by name.

    Raises:
        ValueError: a matrix has another number of rows than the keys, or a value that is not finite.
    """
    series = []
    for name, values in columns.items():
        if len(values) != keys.height:
            raise ValueError(f"{name} must have one row for each of {keys.height} tokens, got {len(values)} rows")
        with np.errstate(over="ignore"):
            precise = values.astype(np.float16 if half_precision else np.float32)
        if not np.isfinite(precise).all():
            n_bad = int(np.sum(~np.isfinite(precise).all(axis=1)))
            raise ValueError(
                f"{name} must be finite as {precise.dtype}, got {n_bad} tokens with nan or infinity; nothing was stored"
            )
        element = pl.Float16 if half_precision else pl.Float32
        series.append(pl.Series(name, precise, dtype=pl.Array(element, values.shape[1])))
    return keys.with_columns(series)


class StackedTokens(NamedTuple):
    """Per-token tables of several shards laid end to end, in order of shard."""

    shard: pl.Series
    keys: pl.DataFrame
    values: Float[np.ndarray, "tokens width"]


def stack(frames: dict[str, pl.LazyFrame], column: str) -> StackedTokens:
    """The vectors under `column` of every shard; sorted by shard, for no order of loading may change a number."""
    shards = sorted(frames)
    loaded = [frames[shard].select(*TOKEN_KEY, column).collect() for shard in shards]
    names = pl.concat(
        [pl.Series("shard", [shard] * frame.height, dtype=pl.String) for shard, frame in zip(shards, loaded)]
    )
    keys = pl.concat([frame.select(*TOKEN_KEY) for frame in loaded])
    return StackedTokens(names, keys, np.concatenate([matrix(frame[column]) for frame in loaded]))


def check(frame: pl.DataFrame | pl.LazyFrame, columns: Sequence[str], where: str) -> None:
    """Refuse a table that lacks one of the columns: it was written by something else, or by an older version."""
    present = frame.collect_schema().names()
    missing = [column for column in columns if column not in present]
    if missing:
        raise ValueError(f"{where} lacks the columns {missing} and has {present}; materialize it again")
