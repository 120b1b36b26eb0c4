"""Per-token susceptibilities from traces: the registry of estimators, and estimates from halves of the chains.

Whatever the estimator, chi = -Cov[phi, l_xy - L] (Baker et al. 2025) is what it aims at; each file says what it leaves out.
Even chains make half a, odd ones half b. They share no draw, no context and no document of the population.
A new estimator is a file here with a dictionary ESTIMATORS.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from susc_pipeline import registry, schema
from susc_pipeline.messages import require
from susc_pipeline.sampling import loss_traces
from susc_pipeline.sampling.loss_traces import LossTraces
from susc_pipeline.susceptibility.estimators.terms import Estimator, Susceptibility

ESTIMATORS: dict[str, Estimator] = registry.collected(sys.modules[__name__], "ESTIMATORS")


@dataclass(frozen=True)
class SusceptibilitySettings:
    """How the draws become a number for each token."""

    estimator: str = "gauss_newton"
    """One of gauss_newton, second_order, first_order, restricted, stein, two_chain, influence; each file of
    susceptibility/estimators says what it leaves out."""

    def __post_init__(self) -> None:
        """Check the values."""
        rule = f"one of {tuple(ESTIMATORS)}"
        require(self.estimator in ESTIMATORS, "susceptibility.estimator", self.estimator, rule)


def by_name(kind: str) -> Estimator:
    """The estimator of that name.

    Raises:
        ValueError: there is none.
    """
    if kind not in ESTIMATORS:
        raise ValueError(
            f"estimator must be one of {tuple(ESTIMATORS)}, got {kind!r}; correct susceptibility.estimator"
        )
    return ESTIMATORS[kind]


def estimate(traces: LossTraces, *, kind: str, all_weights: LossTraces | None = None) -> Susceptibility:
    """Susceptibilities of one component.

    Args:
        traces: of chains in which the component alone moves.
        kind: name of the estimator.
        all_weights: of chains in which all weights move; only `two_chain` needs them.

    Raises:
        ValueError: no such estimator, the traces lack what it needs, or it does not say what it needs.
    """
    estimator = by_name(kind)
    n_tokens = traces.token_losses.shape[1]
    for needed, present, what in (
        (estimator.needs_slopes, traces.token_slopes.shape[1], "slopes along response directions"),
        (estimator.needs_own_slopes, traces.own_slopes.shape[1], "slopes of mirrored pairs of chains"),
        (estimator.needs_responses, traces.responses.shape[1], "slopes and curvatures measured together"),
    ):
        if needed and present != n_tokens:
            raise ValueError(f"estimator {kind} needs {what}, which were not sampled; materialize sgld_samples again")
    found = estimator.estimate(traces, all_weights)
    if len(found.value) != n_tokens:
        raise ValueError(
            f"estimator {kind} gave {len(found.value)} values for {n_tokens} tokens; its Estimator must state what it needs"
        )
    return found


def halves(
    traces: LossTraces, *, kind: str, all_weights: LossTraces | None = None
) -> tuple[Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]]:
    """The estimate from either half of the chains: those of even and those of odd number.

    Raises:
        ValueError: fewer than two chains.
    """
    parts = [(_half(traces, rank), _half(all_weights, rank) if all_weights else None) for rank in (0, 1)]
    a, b = (estimate(part, kind=kind, all_weights=reference).value for part, reference in parts)
    return a, b


def _half(traces: LossTraces, rank: int) -> LossTraces:
    if len(np.unique(traces.chain % 2)) < 2:
        raise ValueError(
            f"split halves need chains of even and odd number, got {np.unique(traces.chain)}; raise sampling.n_chains"
        )
    return loss_traces.take(traces, traces.chain % 2 == rank)


class ShardEstimates(NamedTuple):
    """Susceptibilities of a shard's tokens to every component; the halves share nothing."""

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


def by_chain(
    traces: LossTraces, *, kind: str, all_weights: LossTraces | None = None
) -> Float[np.ndarray, "chains tokens"]:
    """The estimate from each chain alone, with its mirror image; chains in order of number.

    Raises:
        ValueError: a chain has too few draws for the estimator.
    """
    parts = (loss_traces.take(traces, traces.chain == chain) for chain in np.unique(traces.chain))
    return np.stack([estimate(part, kind=kind, all_weights=all_weights).value for part in parts])


def estimate_shard(
    traces: Iterable[LossTraces],
    *,
    kind: str,
    all_weights: LossTraces | None = None,
    products: dict[str, np.ndarray] | None = None,
    names: Iterable[str] = (),
) -> ShardEstimates:
    """Estimates for the traces of one component after another; only one component's traces are held at a time.

    Args:
        traces: of one component after another.
        kind: name of the estimator.
        all_weights: see `estimate`.
        products: filled with a matrix for each component: sums over tokens of the products of two chains' centred estimates.
        names: of the components, for `products`.
    """
    columns = []
    for name, one in zip(names, traces) if products is not None else ((None, one) for one in traces):
        columns.append(estimate_component(one, kind=kind, all_weights=all_weights))
        if products is not None and name is not None:
            of_chains = by_chain(one, kind=kind, all_weights=all_weights)
            centred = of_chains - of_chains.mean(axis=1, keepdims=True)
            products[name] = centred @ centred.T
    return ShardEstimates(*(np.stack(column, axis=1) for column in zip(*columns, strict=True)))


def shard_of_frame(table: pl.DataFrame) -> ShardEstimates:
    """The estimates that ground_truth_susceptibilities stores."""
    columns = ("susceptibility", "standard_error", "half_a", "half_b")
    return ShardEstimates(*(schema.matrix(table[name]) for name in columns))
