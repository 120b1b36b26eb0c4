"""What estimators share: a value with its error, centred terms, and the blocks of draws that count as independent.

An estimator is one file beside this one: the formula, what it needs of the chains, and its estimate.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from susc_pipeline.sampling.loss_traces import LossTraces

BLOCKS_PER_CHAIN = 8


class Susceptibility(NamedTuple):
    """One component's susceptibility of each token, in nats squared, and its standard error over chains and contexts."""

    value: Float[np.ndarray, " tokens"]
    standard_error: Float[np.ndarray, " tokens"]


class Estimator(NamedTuple):
    """A formula, and what must have been sampled for it."""

    estimate: Callable[[LossTraces, LossTraces | None], Susceptibility]
    """Of the component's traces and, where they are needed, of those of chains in which all weights move."""
    needs_direction: bool = False
    """Whether the chain's response direction must be known."""
    needs_slopes: bool = False
    """Whether slopes along it must be measured by themselves."""
    needs_own_slopes: bool = False
    """Whether each chain must have a mirror image, and slopes along the draw's own direction be measured."""
    needs_responses: bool = False
    """Whether each chain must have a mirror image, and slopes along v and curvatures along scores be measured together."""
    needs_all_weights: bool = False
    """Whether chains of all weights must be sampled too."""
    is_covariance: bool = False
    """Whether a chain must have two draws or more."""


def observable(traces: LossTraces) -> Float[np.ndarray, " draws"]:
    """Phi of each draw, in nats, from all its contexts."""
    return (traces.mean_loss - traces.rest_loss + traces.reference_rise) / 2


def losses(traces: LossTraces) -> Float[np.ndarray, "draws tokens"]:
    """Token losses, in nats."""
    return traces.token_losses.astype(np.float64)


def excess_slope(traces: LossTraces) -> Float[np.ndarray, "draws tokens"]:
    """Slope of each token's loss along v, less that of the population loss; nats squared."""
    return traces.token_slopes.astype(np.float64) - traces.mean_slope[:, None]


def excess_own_slope(traces: LossTraces) -> Float[np.ndarray, "draws tokens"]:
    """Slope of each token's loss along the draw's own direction, less that of the population loss; nats squared."""
    return traces.own_slopes.astype(np.float64) - traces.mean_own_slope[:, None]


def excess_response(traces: LossTraces) -> Float[np.ndarray, "draws tokens"]:
    """Response of each token's loss along v and a score, less that of the population loss; nats squared."""
    return traces.responses.astype(np.float64) - traces.mean_response[:, None]


def covariance_with_excess(first: Float[np.ndarray, " draws"], traces: LossTraces) -> Float[np.ndarray, "draws tokens"]:
    """One term a draw, whose mean is the covariance of `first` with the excess loss, token loss - phi.

    The phi that is subtracted has other contexts than the one that `first` is made of, or the variance of their shared
    noise would be added to every token.
    """
    return covariance_terms(first, losses(traces) - traces.reference_rise[:, None])


def covariance_terms(
    first: Float[np.ndarray, " draws"], second: Float[np.ndarray, "draws tokens"]
) -> Float[np.ndarray, "draws tokens"]:
    """One term a draw, whose mean is the sample covariance.

    Raises:
        ValueError: fewer than two draws.
    """
    n_draws = len(first)
    if n_draws < 2:
        raise ValueError(f"a covariance needs at least 2 draws, got {n_draws}; raise sampling.n_draws")
    weights = (first - first.mean()) * n_draws / (n_draws - 1)
    return weights[:, None] * (second - second.mean(axis=0))


def mean_and_error(terms: Float[np.ndarray, "draws tokens"], blocks: Int[np.ndarray, " draws"]) -> Susceptibility:
    """Mean over draws, and its error from the spread between blocks, which are taken to be independent."""
    _, block, counts = np.unique(blocks, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), terms.shape[1]))
    np.add.at(sums, block, terms)
    spread = (sums / counts[:, None]).std(axis=0, ddof=1) if len(counts) > 1 else np.full(terms.shape[1], np.inf)
    return Susceptibility(terms.mean(axis=0), spread / np.sqrt(len(counts)))


def blocks(traces: LossTraces) -> Int[np.ndarray, " draws"]:
    """Block of each draw: consecutive draws of one chain, long enough to be nearly independent of the next block.

    Blocks, not draws, are counted in the standard error, for draws that follow each other are correlated (batch means:
    Flegal and Jones 2010). A chain and its mirror image are in the same block.
    """
    n_per_chain = int(traces.draw.max()) + 1
    n_blocks = min(BLOCKS_PER_CHAIN, n_per_chain)
    position = traces.draw.astype(np.int64) * n_blocks // n_per_chain
    _, chain = np.unique(traces.chain, return_inverse=True)
    return chain * n_blocks + position
