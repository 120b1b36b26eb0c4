"""How well the auxiliary model predicts: training, stopping and test tokens, and the correlation table. No training here."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float16, Float64, Int

from susc_pipeline import schema
from susc_pipeline.representation import auxiliary, metrics, pca, ridge, spool
from susc_pipeline.representation.auxiliary import AuxModel
from susc_pipeline.representation.moments import Moments
from susc_pipeline.representation.pca import PCABasis
from susc_pipeline.susceptibility import reliability


class Part(NamedTuple):
    """Tokens of one part of the ground truth; the two matrices are memory maps, so that they need not fit in memory."""

    activations: Float16[np.ndarray, "tokens features"]
    """The auxiliary model's input: residual stream, then loss gradient."""
    scores: Float64[np.ndarray, "tokens pcs"]
    documents: Int[np.ndarray, " tokens"]


class Split(NamedTuple):
    """Training shards, and the two halves, by document, of the withheld ones."""

    training: Part
    stopping: Part
    test: Part
    test_halves: Moments
    """Moments of the test tokens' susceptibilities from both halves of the chains (reliability.py)."""


def split(
    activations: dict[str, pl.LazyFrame],
    susceptibilities: dict[str, pl.LazyFrame],
    basis: PCABasis,
    training_shards: list[str],
    *,
    folder: Path,
    column: str = "susceptibility",
) -> Split:
    """Ground truth and activations as training, stopping and test tokens, read one shard after another.

    Documents of the withheld shards go to the stopping and the test part in turn, in order of name.

    Args:
        activations: of each ground-truth shard.
        susceptibilities: of the same shards.
        basis: whose scores are to be predicted.
        training_shards: names of those that are not withheld.
        folder: for files without a name, which take about the room of the activations, not compressed.
        column: whose scores they are: those of all chains, or half_a or half_b of one half.

    Raises:
        ValueError: activations and susceptibilities are not of the same tokens.
    """
    of_shards = [(activations[shard], susceptibilities[shard]) for shard in sorted(activations)]
    is_training = [shard in training_shards for shard in sorted(activations)]
    training = [pair for pair, chosen in zip(of_shards, is_training, strict=True) if chosen]
    withheld = [pair for pair, chosen in zip(of_shards, is_training, strict=True) if not chosen]
    names = pl.concat([truth.select("document_id").unique().collect() for _, truth in withheld])
    documents = names["document_id"].unique().sort()
    stopping, test = (
        [tuple(frame.filter(pl.col("document_id").is_in(chosen.implode())) for frame in pair) for pair in withheld]
        for chosen in (documents[::2], documents[1::2])
    )
    halves = reliability.moments_of_halves(truth for _, truth in test)
    parts = [_part(pairs, basis, folder, column) for pairs in (training, stopping, test)]
    return Split(parts[0], parts[1], parts[2], halves)


def _part(pairs: list[tuple[pl.LazyFrame, ...]], basis: PCABasis, folder: Path, column: str) -> Part:
    """Activations and scores of pairs of tables, of which one is in memory at a time."""
    features = spool.spooled((_features(*pair) for pair in pairs), folder)
    truths = (schema.stack({"": truth}, column).values for _, truth in pairs)
    scores = spool.spooled((pca.transform(values, basis) for values in truths), folder)
    names = pl.concat([truth.select("document_id").collect() for _, truth in pairs])["document_id"]
    return Part(features, scores, names.rank("dense").to_numpy().astype(np.int64) - 1)


def _features(activations: pl.LazyFrame, susceptibilities: pl.LazyFrame) -> Float16[np.ndarray, "tokens features"]:
    """Both inputs of the auxiliary model side by side, in the precision in which they are stored."""
    frame = activations.select(*schema.TOKEN_KEY, "activation", "loss_gradient").collect()
    if not frame.select(*schema.TOKEN_KEY).equals(susceptibilities.select(*schema.TOKEN_KEY).collect()):
        raise ValueError("activations and susceptibilities are of different tokens; materialize both again")
    columns = [schema.matrix(frame[name], np.float16) for name in ("activation", "loss_gradient")]
    return np.concatenate(columns, axis=1)


def correlation_table(data: Split, model: AuxModel, basis: PCABasis, rng: np.random.Generator) -> pl.DataFrame:
    """Per PC on the test part: r, its interval over documents, the noise ceiling, the null's 95 % point, ridge's r."""
    test = data.test
    predicted = auxiliary.predict(model, test.activations)
    linear = ridge.fit(
        data.training.activations,
        data.training.scores,
        stopping_activations=data.stopping.activations,
        stopping_targets=data.stopping.scores,
    )
    interval = metrics.document_bootstrap(predicted, test.scores, test.documents, rng)
    null = metrics.permutation_null(predicted, test.scores, test.documents, rng)
    halves = reliability.split_half_scores(data.test_halves, basis)
    columns = {
        "pc": np.arange(1, test.scores.shape[1] + 1),
        "r": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "ceiling": halves.ceiling,
        "null_95": np.quantile(null, 0.95, axis=0),
        "ridge_r": metrics.correlation_per_column(ridge.predict(linear, test.activations), test.scores),
    }
    return pl.DataFrame(columns)
