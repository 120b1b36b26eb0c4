"""How much each token's response vector changes between two checkpoints, with the noise of the measurement taken off."""

import numpy as np
from jaxtyping import Float

from susc_pipeline.development.measured import Checkpoint


def change(first: Checkpoint, second: Checkpoint) -> Float[np.ndarray, " tokens"]:
    """Mean over components of the squared change of the z-scored response, estimated by halves that share nothing.

    The product of the change by half a and the change by half b is free of noise on average, so that a token that does not change
    has 0 on average, and may be below it. Each checkpoint has its own z-scores: a response that grows alike for all tokens is no
    change. Unit: squared standard deviations over tokens.
    """
    changes = [later - earlier for earlier, later in zip(_scores(first), _scores(second))]
    return (changes[0] * changes[1]).mean(axis=1)


def _scores(checkpoint: Checkpoint) -> list[Float[np.ndarray, "tokens components"]]:
    """Both halves in z-scores of all chains; a component that does not vary is 0."""
    response = checkpoint.response.astype(np.float64)
    mean, scale = response.mean(axis=0), response.std(axis=0)
    safe = np.where(scale > 0, scale, 1.0)
    return [np.where(scale > 0, (half - mean) / safe, 0.0) for half in (checkpoint.half_a, checkpoint.half_b)]
