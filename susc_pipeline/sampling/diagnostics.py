"""Whether chains can be believed: R-hat, effective sample size, and the local learning coefficient with its error."""

from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float

AGREEMENT_LEVEL = 0.999  # of a test that is made for each of some hundred components
LEAST_LIMIT = 1.1  # what is usually asked of long chains


class Trace(NamedTuple):
    """What the chains that found a direction went through; a row is a step, chains first and then their mirror images."""

    loss: Float[np.ndarray, "steps chains"]
    """Mean loss of the step's contexts, in nats."""
    rest_loss: Float[np.ndarray, "steps chains"]
    """Mean loss of the same contexts at w*."""


def rises(trace: Trace, *, n_draws: int) -> Float[np.ndarray, "chains draws"]:
    """Rise of the mean loss over that at w* on the same contexts, at each of the last steps, in nats: mean of a mirrored pair.

    A chain and its mirror image share contexts, so they count as one.
    """
    rise = (trace.loss - trace.rest_loss).astype(np.float64)[-n_draws:]
    return np.mean(np.split(rise, 2, axis=1), axis=0).T


class Estimate(NamedTuple):
    """A number with its standard error."""

    value: float
    standard_error: float


def r_hat(trace: Float[np.ndarray, "chains draws"]) -> float:
    """Split R-hat of Gelman et al. (2013, BDA3 11.4): 1 where chains agree, above about 1.1 where they do not."""
    half = trace.shape[1] // 2
    if half < 2:
        raise ValueError(f"r_hat needs at least 4 draws a chain, got {trace.shape[1]}; raise sampling.n_draws")
    pieces = np.concatenate([trace[:, :half], trace[:, half : 2 * half]])
    within = pieces.var(axis=1, ddof=1).mean()
    between = half * pieces.mean(axis=1).var(ddof=1)
    if within == 0:
        return 1.0 if between == 0 else float("inf")
    return float(np.sqrt(((half - 1) / half * within + between / half) / within))


def r_hat_limit(n_chains: int, n_draws: int, *, level: float = AGREEMENT_LEVEL) -> float:
    """The R-hat that independent draws of chains which agree exceed with probability 1 - level, but at least 1.1.

    R-hat squared is (half - 1 + F) / half with F the ratio of an analysis of variance between 2 n_chains halves, which
    has Fisher's distribution for normal draws. From few draws R-hat is large by chance: 4 chains of 4 draws reach 1.5 in
    one case of twenty.
    """
    half = n_draws // 2
    ratio = scipy.stats.f.ppf(level, 2 * n_chains - 1, 2 * n_chains * (half - 1))
    return max(LEAST_LIMIT, float(np.sqrt((half - 1 + ratio) / half)))


def effective_sample_size(trace: Float[np.ndarray, "chains draws"]) -> float:
    """Number of independent draws with the same error of the mean: Geyer's initial positive sequence (1992), over chains."""
    n_chains, n_draws = trace.shape
    centred = trace - trace.mean()
    variance = (centred**2).mean()
    if variance == 0:
        return float(n_chains * n_draws)
    lags = [1.0]
    for lag in range(1, n_draws):
        lags.append(float((centred[:, lag:] * centred[:, :-lag]).mean() / variance))
    time = -1.0
    for first in range(0, len(lags) - 1, 2):
        pair = lags[first] + lags[first + 1]
        if pair <= 0:
            break
        time += 2 * pair
    return n_chains * n_draws / max(time, 1.0)


def local_learning_coefficient(
    trace: Float[np.ndarray, "chains draws"], *, init_loss: float, n_beta: float
) -> Estimate:
    """LLC = n_beta (E[L(w)] - L(w*)) of Lau et al. (2023), with a standard error from the spread between chains."""
    means = n_beta * (trace.mean(axis=1) - init_loss)
    return Estimate(float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means))))
