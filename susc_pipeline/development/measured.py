"""What was measured at one checkpoint, and each component's figures there: LLC, reliability, size of the response, variance."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from susc_pipeline.model.components import Component
from susc_pipeline.representation import moments
from susc_pipeline.schema import development_tables
from susc_pipeline.susceptibility import reliability


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One checkpoint's measurement; all checkpoints of a run have the same tokens, components and chains, in one order."""

    step: int
    losses: Float[np.ndarray, " tokens"]
    """At the checkpoint, in nats."""
    half_a: Float[np.ndarray, "tokens components"]
    """Linear responses by even chains, in nats squared."""
    half_b: Float[np.ndarray, "tokens components"]
    """By odd chains, which share nothing with the even ones."""
    chain_llc: Float[np.ndarray, "chains components"]
    """Local learning coefficient by each mirrored pair of chains; no unit."""
    probe: Float[np.ndarray, "components chains probe_tokens"]
    """Slope of each probe token's loss along each chain's direction, in nats squared."""
    localization: Float[np.ndarray, " components"]
    """Of each component's posterior, per squared weight: the size of the noise behind its LLC."""

    @property
    def response(self) -> Float[np.ndarray, "tokens components"]:
        """Linear responses by all chains."""
        return (self.half_a + self.half_b) / 2


def check_alike(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> None:
    """Refuse checkpoints that differ in tokens, components, chains or noise, out of order, or without a response somewhere.

    Args:
        checkpoints: by rising step.
        names: of the components.

    Raises:
        ValueError: names the steps, and the component whose localization differs or whose response does not vary.
    """
    steps = [one.step for one in checkpoints]
    if len(steps) < 2 or any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        raise ValueError(f"checkpoints must be at least 2, by rising step, got steps {steps}; order them")
    shapes = {(one.half_a.shape, one.half_b.shape, one.chain_llc.shape, one.probe.shape) for one in checkpoints}
    if len(shapes) > 1:
        raise ValueError(f"checkpoints of steps {steps} have other tokens, components or chains; measure them alike")
    for number, name in enumerate(names):
        localizations = [float(one.localization[number]) for one in checkpoints]
        if len(set(localizations)) > 1:
            raise ValueError(
                f"{name} must have one localization, got {localizations} at steps {steps}: its LLCs would compare noise of other "
                f"sizes; measure all with sampling.target_rise = 0 and one sampling.localization"
            )
    for one in checkpoints:
        if still := [name for name, is_constant in zip(names, moments.of(one.response).is_constant) if is_constant]:
            raise ValueError(
                f"the response of {', '.join(still)} must vary over tokens, but does not at step {one.step}: its z-scores would "
                f"have no scale; leave it out of [model] components, or leave that checkpoint out"
            )


def signal_variance(checkpoint: Checkpoint) -> Float[np.ndarray, " components"]:
    """Variance of the response over tokens without noise: the covariance of halves that share nothing; never below zero."""
    a, b = (half - half.mean(axis=0) for half in (checkpoint.half_a, checkpoint.half_b))
    return np.maximum((a.astype(np.float64) * b).sum(axis=0) / (len(a) - 1), 0.0)


def component_table(checkpoints: Sequence[Checkpoint], components: Sequence[Component]) -> pl.DataFrame:
    """Each component's figures at each checkpoint, as DEVELOPMENT_COMPONENTS.

    The error of a LLC is the spread between chains over the root of their number. Reliability and its 95 % interval are of the
    probe tokens, by chains. Shares of variance are without noise and add up to 1 at a checkpoint.
    """
    rows = []
    for one in checkpoints:
        variance = signal_variance(one)
        size, n_chains = np.abs(one.response).mean(axis=0), len(one.chain_llc)
        for number, component in enumerate(components):
            llc = one.chain_llc[:, number]
            reached = reliability.of_replicates_interval(one.probe[number])
            rows.append(
                {
                    "step": one.step,
                    "component": component.name,
                    "kind": component.kind,
                    "layer": component.layer if component.kind in ("head", "key_value", "mlp") else None,
                    "head": component.head if component.kind in ("head", "key_value") else None,
                    "llc": float(llc.mean()),
                    "llc_error": float(llc.std(ddof=1) / np.sqrt(n_chains)),
                    "reliability": reached.value,
                    "reliability_low": reached.low,
                    "reliability_high": reached.high,
                    "mean_response": float(size[number]),
                    "variance_share": float(variance[number] / variance.sum()) if variance.sum() > 0 else None,
                }
            )
    return pl.DataFrame(rows, schema=development_tables.DEVELOPMENT_COMPONENTS)
