"""How well linear response and the auxiliary model give measured scores: parts of the tokens, and the correlation table."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float16, Float32, Float64, Int

from susc_pipeline import schema
from susc_pipeline.representation import auxiliary, metrics, moments, pca, ridge, spool
from susc_pipeline.representation.auxiliary import AuxModel
from susc_pipeline.representation.moments import Moments
from susc_pipeline.representation.pca import PCABasis
from susc_pipeline.susceptibility import reliability


class Part(NamedTuple):
    """Tokens of one part of the shards; the matrices are memory maps, so that they need not fit in memory."""

    activations: Float16[np.ndarray, "tokens features"]
    """The auxiliary model's input: residual stream, then loss gradient."""
    scores: Float64[np.ndarray, "tokens pcs"]
    """PC scores of the linear response."""
    documents: Int[np.ndarray, " tokens"]


class Split(NamedTuple):
    """Training shards, and the two halves, by document, of the withheld ones."""

    training: Part
    stopping: Part
    test: Part
    test_truth: Float64[np.ndarray, "tokens pcs"]
    """PC scores of the test tokens' susceptibilities, as sampled."""
    test_halves: Moments
    """Moments of the test tokens' susceptibilities from both halves of the chains (reliability.py)."""
    test_products: Moments
    """Moments of linear responses and susceptibilities of the test tokens side by side, each by half a and then by half b."""


def split(
    activations: dict[str, pl.LazyFrame],
    responses: dict[str, pl.LazyFrame],
    truth: dict[str, pl.LazyFrame],
    basis: PCABasis,
    *,
    folder: Path,
    column: str = "linear_response",
) -> Split:
    """Linear responses and activations as training and stopping tokens, and sampled susceptibilities of test tokens.

    Documents of the withheld shards go to the stopping and the test part in turn, in order of name. Shards are read one
    after another.

    Args:
        activations: of each shard.
        responses: linear responses of the same shards.
        truth: sampled susceptibilities of the withheld shards; all other shards are for training.
        basis: whose scores are to be predicted.
        folder: for files without a name, which take about the room of the activations, not compressed.
        column: by which chains the scores to be learnt are: linear_response, half_a or half_b.

    Raises:
        ValueError: the tables are not of the same tokens.
    """
    training = [(activations[shard], responses[shard]) for shard in sorted(set(activations) - set(truth))]
    withheld = [(activations[shard], responses[shard], truth[shard]) for shard in sorted(truth)]
    names = pl.concat([frames[0].select("document_id").unique().collect() for frames in withheld])
    documents = names["document_id"].unique().sort()
    stopping, test = (
        [tuple(frame.filter(pl.col("document_id").is_in(chosen.implode())) for frame in frames) for frames in withheld]
        for chosen in (documents[::2], documents[1::2])
    )
    halves = reliability.moments_of_halves(sampled for _, _, sampled in test)
    pairs_of_parts = (training, [frames[:2] for frames in stopping], [frames[:2] for frames in test])
    parts = [_part(pairs, basis, folder, column) for pairs in pairs_of_parts]
    for active, _, sampled in test:
        _check_same_tokens(active, sampled)
    sampled = (schema.stack({"": frames[2]}, "susceptibility").values for frames in test)
    scores = spool.spooled((pca.transform(values, basis) for values in sampled), folder)
    products = moments.merge_all(moments.of(_side_by_side(frames[1:])) for frames in test)
    return Split(parts[0], parts[1], parts[2], scores, halves, products)


def _side_by_side(frames: Sequence[pl.LazyFrame]) -> Float32[np.ndarray, "tokens columns"]:
    found = [frame.select("half_a", "half_b").collect() for frame in frames]
    return np.concatenate([schema.matrix(frame[half]) for frame in found for half in frame.columns], axis=1)


def unshared(products: Moments, basis: PCABasis) -> Float64[np.ndarray, " pcs"]:
    """Of each PC's covariance of linear response with susceptibility, the share that remains without common chains.

    Both rest on the same response directions, whose noise would count as agreement: half a of either is held against half b
    of the other instead.
    """
    axes = basis.components / basis.scale
    blocks = [np.split(rows, 4, axis=1) for rows in np.split(products.covariance, 4)]
    (aa, ab), (ba, bb) = ([np.einsum("pc,cd,pd->p", axes, blocks[i][j], axes) for j in (2, 3)] for i in (0, 1))
    return 2 * (ab + ba) / (aa + ab + ba + bb)


def _part(pairs: Sequence[tuple[pl.LazyFrame, ...]], basis: PCABasis, folder: Path, column: str) -> Part:
    """Activations and scores of pairs of tables, of which one is in memory at a time."""
    features = spool.spooled((_features(*pair) for pair in pairs), folder)
    truths = (schema.stack({"": truth}, column).values for _, truth in pairs)
    scores = spool.spooled((pca.transform(values, basis) for values in truths), folder)
    names = pl.concat([truth.select("document_id").collect() for _, truth in pairs])["document_id"]
    return Part(features, scores, names.rank("dense").to_numpy().astype(np.int64) - 1)


def _check_same_tokens(first: pl.LazyFrame, second: pl.LazyFrame) -> None:
    if not first.select(*schema.TOKEN_KEY).collect().equals(second.select(*schema.TOKEN_KEY).collect()):
        raise ValueError("activations and susceptibilities are of different tokens; materialize both again")


def _features(activations: pl.LazyFrame, responses: pl.LazyFrame) -> Float16[np.ndarray, "tokens features"]:
    """Both inputs of the auxiliary model side by side, in the precision in which they are stored."""
    _check_same_tokens(activations, responses)
    frame = activations.select("activation", "loss_gradient").collect()
    columns = [schema.matrix(frame[name], np.float16) for name in ("activation", "loss_gradient")]
    return np.concatenate(columns, axis=1)


def correlation_table(data: Split, model: AuxModel, basis: PCABasis, rng: np.random.Generator) -> pl.DataFrame:
    """Per PC, correlation with the test tokens' sampled scores: of the auxiliary model's and of linear response.

    Each with its 95 % interval over documents. Linear response and what it is held against share no chain (`unshared`); what
    the auxiliary model learnt of the directions' noise is in its r. Beside them the noise ceiling, the 95 % point of the
    auxiliary model's permutation null, and the r of ridge regression.
    """
    test, truth = data.test, data.test_truth
    predicted = auxiliary.predict(model, test.activations)
    linear = ridge.fit(
        data.training.activations,
        data.training.scores,
        stopping_activations=data.stopping.activations,
        stopping_targets=data.stopping.scores,
    )
    interval, measured = (
        metrics.document_bootstrap(scores, truth, test.documents, rng) for scores in (predicted, test.scores)
    )
    share = unshared(data.test_products, basis)
    null = metrics.permutation_null(predicted, truth, test.documents, rng)
    halves = reliability.split_half_scores(data.test_halves, basis)
    columns = {
        "pc": np.arange(1, test.scores.shape[1] + 1),
        "r": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "linear_response_r": share * measured.estimate,
        "linear_response_low": share * measured.low,
        "linear_response_high": share * measured.high,
        "ceiling": halves.ceiling,
        "null_95": np.quantile(null, 0.95, axis=0),
        "ridge_r": metrics.correlation_per_column(ridge.predict(linear, test.activations), truth),
    }
    return pl.DataFrame(columns)
