"""Susceptibilities of tokens from loss traces, each with a standard error. Reliability over tokens is in reliability.py.

Under a draw, observable = mean loss of the fixed set minus its value at w*, excess = token loss - mean loss; the
susceptibility is minus their covariance over the local posterior. Four estimators of it:

- `restricted`: the sample covariance (Baker et al. 2025). Unbiased; most of its error comes from the part of a token's
  loss that is linear in the perturbation, a random projection of very many weights.
- `first_order`: integrating by parts (Stein 1972), Cov[v.score, excess] = E[v.grad excess] for any direction v, where
  score is the gradient of the negative log posterior. With v the mean observable gradient over localization this is
  the first term of the covariance's expansion in Hermite polynomials (Houdre and Kagan 1995): what the linear
  response of both losses, smoothed over the posterior, says. It needs no covariance over draws and so has almost no
  Monte-Carlo error, but leaves out terms of second order in the perturbation.
- `stein`: first_order plus the sample covariance of what v does not explain: v.score as a control variate. Unbiased.
- `two_chain`: as restricted, but the mean of the excess is that of chains in which all weights move, so that the
  estimate holds phi's mean times how much the component alone moves the excess (Gordon et al.; devinterp).
- `bif`: as restricted, but with the token's own loss in place of the excess.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from susc_pipeline import schema
from susc_pipeline.config import ESTIMATORS
from susc_pipeline.sampling import loss_traces
from susc_pipeline.sampling.loss_traces import LossTraces

BLOCKS_PER_CHAIN = 8


class Susceptibility(NamedTuple):
    """One component's susceptibility of each token, in nats squared, and its Monte-Carlo standard error."""

    value: Float[np.ndarray, " tokens"]
    standard_error: Float[np.ndarray, " tokens"]


def estimate(traces: LossTraces, *, kind: str, all_weights: LossTraces | None = None) -> Susceptibility:
    """Susceptibilities of one component by one of ESTIMATORS.

    Args:
        traces: of chains in which the component alone moves.
        kind: the estimator.
        all_weights: of chains in which all weights move; `two_chain` needs them.
    """
    match kind:
        case "two_chain":
            if all_weights is None:
                raise ValueError("estimator two_chain needs chains of all weights; set sampling.all_weights = true")
            return two_chain(traces, all_weights)
        case "restricted":
            return restricted(traces)
        case "first_order":
            return first_order(traces)
        case "stein":
            return stein(traces)
        case "bif":
            return bayesian_influence(traces)
    raise ValueError(f"estimator must be one of {ESTIMATORS}, got {kind!r}; correct susceptibility.estimator")


def restricted(traces: LossTraces) -> Susceptibility:
    """Minus the covariance, over all draws, of the observable with the token's excess loss.

    chi = -Cov[phi, l_xy - L] of Baker et al. (2025); no n_beta, no normalisation. A token that the component's noise
    hurts less than the mean is positive.
    """
    return _mean_and_error(-_covariance_terms(traces.mean_loss, _excess(traces)), _blocks(traces))


def first_order(traces: LossTraces) -> Susceptibility:
    """Minus the mean slope of the token's excess loss along v: the linear response alone.

    Each chain has a direction of its own, so the standard error, from the spread between chains, covers its error too.
    Estimating v and the slope on the same draws adds 2/n_draws of the second-order term, which belongs to chi anyway.
    """
    return _mean_and_error(-_excess_slope(traces), traces.chain)


def stein(traces: LossTraces) -> Susceptibility:
    """first_order minus the covariance of the excess loss with what v's score leaves of the observable.

    Cov[phi, e] = E[v.grad e] + Cov[phi - v.score, e], whatever the direction v.
    """
    rest = _covariance_terms(traces.mean_loss - traces.score, _excess(traces))
    return _mean_and_error(-_excess_slope(traces) - rest, traces.chain)


def bayesian_influence(traces: LossTraces) -> Susceptibility:
    """Minus the covariance of the observable with the token's own loss: the Bayesian influence function, uncentred."""
    losses = traces.token_losses.astype(np.float64)
    return _mean_and_error(-_covariance_terms(traces.mean_loss, losses), _blocks(traces))


def two_chain(traces: LossTraces, all_weights: LossTraces) -> Susceptibility:
    """The estimator with two kinds of chains: -(E_C[phi (l - L)] - E_C[phi] E_all[l - L]) (Gordon et al.; devinterp).

    Args:
        traces: of chains in which the component alone moves.
        all_weights: of chains in which all weights move, over the same tokens.
    """
    observable = traces.mean_loss - traces.init_loss
    reference = _mean_and_error(_excess(all_weights), _blocks(all_weights))
    terms = -(observable[:, None] * (_excess(traces) - reference.value))
    found = _mean_and_error(terms, _blocks(traces))
    return Susceptibility(found.value, np.hypot(found.standard_error, observable.mean() * reference.standard_error))


def halves(
    traces: LossTraces, *, kind: str, all_weights: LossTraces | None = None
) -> tuple[Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]]:
    """The estimate from either half of the chains: those of even and those of odd rank.

    Raises:
        ValueError: fewer than two chains.
    """
    parts = [(_half(traces, rank), _half(all_weights, rank) if all_weights else None) for rank in (0, 1)]
    a, b = (estimate(part, kind=kind, all_weights=reference).value for part, reference in parts)
    return a, b


def _half(traces: LossTraces, rank: int) -> LossTraces:
    chains_present = np.unique(traces.chain)
    if len(chains_present) < 2:
        raise ValueError(f"split halves need at least 2 chains, got {len(chains_present)}; raise sampling.n_chains")
    return loss_traces.take(traces, np.isin(traces.chain, chains_present[rank::2]))


class ShardEstimates(NamedTuple):
    """Susceptibilities of a shard's tokens to every component; the halves come from disjoint chains."""

    value: Float[np.ndarray, "tokens components"]
    standard_error: Float[np.ndarray, "tokens components"]
    half_a: Float[np.ndarray, "tokens components"]
    half_b: Float[np.ndarray, "tokens components"]


class ComponentEstimates(NamedTuple):
    """A column of ShardEstimates."""

    value: Float[np.ndarray, " tokens"]
    standard_error: Float[np.ndarray, " tokens"]
    half_a: Float[np.ndarray, " tokens"]
    half_b: Float[np.ndarray, " tokens"]


def estimate_component(traces: LossTraces, *, kind: str, all_weights: LossTraces | None = None) -> ComponentEstimates:
    """The estimate of one component from all its chains and from either half of them."""
    extra = {"kind": kind, "all_weights": all_weights}
    return ComponentEstimates(*estimate(traces, **extra), *halves(traces, **extra))


def estimate_shard(traces: Iterable[LossTraces], *, kind: str, all_weights: LossTraces | None = None) -> ShardEstimates:
    """Estimates for the traces of one component after another; only one component's traces are held at a time."""
    return of_components(estimate_component(one, kind=kind, all_weights=all_weights) for one in traces)


def of_components(columns: Iterable[ComponentEstimates]) -> ShardEstimates:
    """The estimates of components side by side."""
    return ShardEstimates(*(np.stack(column, axis=1) for column in zip(*columns, strict=True)))


def shard_of_frame(table: pl.DataFrame) -> ShardEstimates:
    """The estimates that ground_truth_susceptibilities stores."""
    columns = ("susceptibility", "standard_error", "half_a", "half_b")
    return ShardEstimates(*(schema.matrix(table[name]) for name in columns))


def _excess(traces: LossTraces) -> Float[np.ndarray, "draws tokens"]:
    return traces.token_losses.astype(np.float64) - traces.mean_loss[:, None]


def _excess_slope(traces: LossTraces) -> Float[np.ndarray, "draws tokens"]:
    return traces.token_slopes.astype(np.float64) - traces.mean_slope[:, None]


def _covariance_terms(
    observable: Float[np.ndarray, " draws"], losses: Float[np.ndarray, "draws tokens"]
) -> Float[np.ndarray, "draws tokens"]:
    """One term a draw, whose mean is the sample covariance."""
    n_draws = len(observable)
    if n_draws < 2:
        raise ValueError(f"a covariance needs at least 2 draws, got {n_draws}; raise sampling.n_draws")
    weights = (observable - observable.mean()) * n_draws / (n_draws - 1)
    return weights[:, None] * (losses - losses.mean(axis=0))


def _mean_and_error(terms: Float[np.ndarray, "draws tokens"], blocks: Int[np.ndarray, " draws"]) -> Susceptibility:
    """Mean over draws, and its error from the spread between blocks, which are taken to be independent."""
    _, block, counts = np.unique(blocks, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), terms.shape[1]))
    np.add.at(sums, block, terms)
    spread = (sums / counts[:, None]).std(axis=0, ddof=1) if len(counts) > 1 else np.full(terms.shape[1], np.inf)
    return Susceptibility(terms.mean(axis=0), spread / np.sqrt(len(counts)))


def _blocks(traces: LossTraces) -> Int[np.ndarray, " draws"]:
    """Block of each draw: consecutive draws of one chain, long enough to be nearly independent of the next block.

    Blocks, not draws, are counted in the standard error, for draws that follow each other are correlated (batch means:
    Flegal and Jones 2010).
    """
    n_per_chain = int(traces.draw.max()) + 1
    n_blocks = min(BLOCKS_PER_CHAIN, n_per_chain)
    position = traces.draw.astype(np.int64) * n_blocks // n_per_chain
    _, chain = np.unique(traces.chain, return_inverse=True)
    return chain * n_blocks + position
