"""How well the auxiliary model predicts: training, stopping and test tokens, and the correlation table. No training here."""

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from susc_pipeline import schema
from susc_pipeline.representation import auxiliary, metrics, pca, ridge
from susc_pipeline.representation.auxiliary import AuxModel
from susc_pipeline.representation.pca import PCABasis
from susc_pipeline.susceptibility import reliability


class Part(NamedTuple):
    """Tokens of one part of the ground truth."""

    activations: Float[np.ndarray, "tokens features"]
    """The auxiliary model's input: residual stream, then loss gradient."""
    scores: Float[np.ndarray, "tokens pcs"]
    half_a: Float[np.ndarray, "tokens components"]
    half_b: Float[np.ndarray, "tokens components"]
    documents: Int[np.ndarray, " tokens"]


class Split(NamedTuple):
    """Training shards, and the two halves, by document, of the withheld ones."""

    training: Part
    stopping: Part
    test: Part


def split(
    activations: dict[str, pl.LazyFrame],
    susceptibilities: dict[str, pl.LazyFrame],
    basis: PCABasis,
    training_shards: list[str],
) -> Split:
    """Ground truth and activations as training, stopping and test tokens.

    Documents of the withheld shards go to the stopping and the test part in turn, in order of name.

    Raises:
        ValueError: activations and susceptibilities are not of the same tokens.
    """
    training = _part(activations, susceptibilities, basis, [s for s in sorted(activations) if s in training_shards])
    withheld = _part(activations, susceptibilities, basis, [s for s in sorted(activations) if s not in training_shards])
    even = withheld.documents % 2 == 0
    return Split(training, _take(withheld, even), _take(withheld, ~even))


def _part(
    activations: dict[str, pl.LazyFrame], susceptibilities: dict[str, pl.LazyFrame], basis: PCABasis, shards: list[str]
) -> Part:
    features, gradients = (
        schema.stack({shard: activations[shard] for shard in shards}, column)
        for column in ("activation", "loss_gradient")
    )
    chosen = {shard: susceptibilities[shard] for shard in shards}
    values, half_a, half_b = (schema.stack(chosen, column) for column in ("susceptibility", "half_a", "half_b"))
    if not features.keys.equals(values.keys):
        raise ValueError("activations and susceptibilities are of different tokens; materialize both again")
    _, documents = np.unique(values.keys["document_id"].to_numpy(), return_inverse=True)
    scores = pca.transform(values.values, basis)
    inputs = np.concatenate([features.values, gradients.values], axis=1)
    return Part(inputs, scores, half_a.values, half_b.values, documents)


def _take(part: Part, rows: np.ndarray) -> Part:
    return Part(*(values[rows] for values in part))


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
    halves = reliability.split_half_scores([(test.half_a, test.half_b)], basis)
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
