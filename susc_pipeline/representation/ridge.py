"""Ridge regression from activations to PC scores: the linear baseline of the auxiliary model, which is in auxiliary.py."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from susc_pipeline.representation import auxiliary, auxiliary_training, metrics, moments

PENALTIES = tuple(10.0**power for power in range(-4, 4))


class RidgeModel(NamedTuple):
    """scores = activations @ weights + intercept, and the penalty that was chosen."""

    weights: Float64[np.ndarray, "features pcs"]
    intercept: Float64[np.ndarray, " pcs"]
    penalty: float


def fit(
    activations: Float[np.ndarray, "tokens features"],
    targets: Float[np.ndarray, "tokens pcs"],
    *,
    stopping_activations: Float[np.ndarray, "stopping features"],
    stopping_targets: Float[np.ndarray, "stopping pcs"],
    penalties: Sequence[float] = PENALTIES,
) -> RidgeModel:
    """The solution in closed form, with that of the penalties which predicts the stopping set best.

    weights = (Z'Z / count + penalty I)^-1 Z'Y / count on z-scored activations Z (Hoerl and Kennard 1970); one
    eigendecomposition serves all penalties. Tokens are read a block at a time, so that both may be memory maps.
    """
    auxiliary_training.check_training_set(activations, targets)
    auxiliary_training.check_training_set(stopping_activations, stopping_targets)
    mean, deviation = moments.column_statistics(activations)
    scale = np.where(deviation > 0, deviation, 1.0)
    centre = moments.column_statistics(targets).mean
    gram, cross = np.zeros((len(mean), len(mean))), np.zeros((len(mean), len(centre)))
    for start in range(0, len(targets), auxiliary.BLOCK_SIZE):
        block = slice(start, start + auxiliary.BLOCK_SIZE)
        z = (activations[block] - mean) / scale
        gram += z.T @ z
        cross += z.T @ (targets[block] - centre)
    variance, vectors = np.linalg.eigh(gram / len(targets))
    projected = vectors.T @ cross / len(targets)
    candidates = []
    for penalty in penalties:
        weights = vectors @ (projected / (np.maximum(variance, 0.0) + penalty)[:, None]) / scale[:, None]
        candidates.append(RidgeModel(weights, centre - mean @ weights, float(penalty)))
    losses = [metrics.unexplained_share(predict(model, stopping_activations), stopping_targets) for model in candidates]
    return candidates[int(np.argmin(losses))]


def predict(model: RidgeModel, activations: Float[np.ndarray, "tokens features"]) -> Float64[np.ndarray, "tokens pcs"]:
    """PC scores of activations."""
    starts = range(0, len(activations), auxiliary.BLOCK_SIZE)
    blocks = [activations[start : start + auxiliary.BLOCK_SIZE].astype(np.float64) @ model.weights for start in starts]
    return np.concatenate(blocks) + model.intercept
