"""How much each token's response vector changes between two checkpoints, with the noise of the measurement taken off."""

import numpy as np
from jaxtyping import Bool, Float

from susc_pipeline.development import measured
from susc_pipeline.development.measured import Checkpoint

# Share of a response's variance over tokens that must be signal: the default bar of principal axes. With less, the signal's
# variance is hardly told from zero, and z-scores by it would magnify noise.
LEAST_SIGNAL = 0.5


def change(first: Checkpoint, second: Checkpoint) -> Float[np.ndarray, " tokens"]:
    """Mean over components of the squared change of the z-scored response, estimated by halves that share nothing.

    The product of the change by half a and the change by half b is free of noise on average, so that a token that does not change
    has 0 on average, and may be below it. Each checkpoint has its own z-scores: a response that grows alike for all tokens is no
    change. Their scale holds no noise: else a checkpoint of more noise would seem to shrink the largest responses.

    Components count that have a clear signal at both checkpoints; without any, all changes are 0. Unit: squared standard
    deviations over tokens.
    """
    chosen = _has_signal(first) & _has_signal(second)
    changes = [later - earlier for earlier, later in zip(_scores(first, chosen), _scores(second, chosen))]
    return (changes[0] * changes[1]).sum(axis=1) / max(1, chosen.sum())


def _has_signal(checkpoint: Checkpoint) -> Bool[np.ndarray, " components"]:
    variance = checkpoint.response.var(axis=0, ddof=1, dtype=np.float64)
    return measured.signal_variance(checkpoint) > LEAST_SIGNAL * variance


def _scores(
    checkpoint: Checkpoint, chosen: Bool[np.ndarray, " components"]
) -> list[Float[np.ndarray, "tokens chosen_components"]]:
    """Both halves in z-scores of the chosen components, by the mean of all chains and the deviation without noise."""
    mean = checkpoint.response[:, chosen].mean(axis=0, dtype=np.float64)
    scale = np.sqrt(measured.signal_variance(checkpoint)[chosen])
    return [(half[:, chosen] - mean) / scale for half in (checkpoint.half_a, checkpoint.half_b)]
