"""What decides a susceptibility, the loss or the Gaussian: curvature, local learning coefficient, and what n_beta = 0 gives.

Along a direction of curvature c the posterior has variance 1 / (n_beta c + localization). Where n_beta c is far below
localization, the Gaussian alone decides how far the weights move. A Gaussian that is round in the weights depends on how the
function is written in them: `rescaled` writes one head otherwise. How directions are found is in directions.py.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from susc_pipeline import schema
from susc_pipeline.messages import require
from susc_pipeline.model import components, decoder_weights
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.sampling import curvature, diagnostics
from susc_pipeline.sampling.diagnostics import Estimate
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import control, directions
from susc_pipeline.susceptibility.control import Agreement
from susc_pipeline.susceptibility.direction_files import Diagnostics, StoredDirections
from susc_pipeline.susceptibility.directions import DirectionSettings, Rise

MEANING = (
    "A susceptibility says how a token's loss changes, relative to the mean loss, when round Gaussian noise on one "
    "component's weights gives way slightly to the loss. Where n_beta times curvature is small beside localization, the "
    "Gaussian decides nearly all of it: chains that never see the loss give the same pattern over tokens. It is a true "
    "derivative, but no map of the basin that the loss carves, and no property of the function alone: the same function "
    "written with other weights has other susceptibilities."
)


@dataclass(frozen=True)
class RegimeSettings:
    """For which components it is tried where the loss begins to decide."""

    components: tuple[str, ...] = ()
    """Components whose n_beta is swept; none named: none."""
    n_betas: tuple[float, ...] = (30.0, 300.0)
    """Weights of the mean loss, each compared with zero."""
    max_contexts: int = 512
    """Population contexts that the chains read at each n_beta, at most."""

    def __post_init__(self) -> None:
        """Check the values."""
        require(len(self.n_betas) >= 1, "regime.n_betas", self.n_betas, "at least one value")
        require(min(self.n_betas, default=0) >= 0, "regime.n_betas", self.n_betas, "zero or more")
        require(self.max_contexts >= 1, "regime.max_contexts", self.max_contexts, "at least 1")


class Chains(NamedTuple):
    """How the chains of one component behaved; a mirrored pair is one unit, for its two losses are nearly equal."""

    llc: Estimate
    """Local learning coefficient of Lau et al. (2023), n_beta times the mean rise of the loss over that at w*; no unit."""
    r_hat: float
    """Of the rise, over the steps of pairs."""
    effective_share: float
    """Effective sample size of the rise over the number of steps."""


def rises(found: Rise | Diagnostics, settings: SamplingSettings) -> Float[np.ndarray, "chains steps"]:
    """Rise of the mean loss over that at w* at each step after the burn-in, of each mirrored pair, in nats."""
    # Counted from the end: where steps were divided, so was the burn-in.
    return diagnostics.rises(found.trace, n_draws=found.n_contexts // (settings.n_chains * settings.batch_size))


def of_chains(found: Rise | Diagnostics, settings: SamplingSettings) -> Chains:
    """Local learning coefficient and convergence of the chains that found a direction, steps of the burn-in left out.

    The rise of each step is against w* on the same contexts, so that their noise cancels.

    Args:
        found: by chains of these settings.
        settings: of the chains.
    """
    pairs = rises(found, settings)
    llc = diagnostics.local_learning_coefficient(pairs, init_loss=0.0, n_beta=settings.n_beta)
    return Chains(llc, diagnostics.r_hat(pairs), diagnostics.effective_sample_size(pairs) / pairs.size)


def rest_slopes(
    model: Decoder,
    component: Component,
    probe: Int[np.ndarray, "contexts positions"],
    stored: StoredDirections,
) -> Float[np.ndarray, "chains probe_tokens"]:
    """Slope of each probe token's loss along each chain's gradient at w* / localization.

    Raises:
        ValueError: the gradients were not loaded.
    """
    if stored.at_rest is None:
        raise ValueError(f"gradients at w* of {component.name} were not loaded; load its directions with_rest")
    return directions.probe_slopes(model, probe, {component: stored.at_rest / stored.localization})[0]


def prior_share(
    slopes_at_zero: Float[np.ndarray, "chains probe_tokens"], slopes: Float[np.ndarray, "chains probe_tokens"]
) -> Agreement:
    """How linear responses at n_beta follow those at n_beta = 0, over the probe tokens.

    The squared correlation is the share of their variance that chains without the loss reproduce; the slope is how much of
    the response the loss leaves.

    Args:
        slopes_at_zero: slopes of the probe's losses along each chain's direction at n_beta = 0.
        slopes: at n_beta, by the same population.
    """
    return control.agreement(*(control.halves(-part) for part in (slopes_at_zero, slopes)))


def row(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    found: Rise | Diagnostics,
    *,
    largest: float,
    prior: Agreement | None = None,
) -> dict[str, object]:
    """The regime of one component, a row of schema.REGIME.

    Args:
        model: at w*.
        component: the one that moved.
        settings: of the chains that `found` is by.
        found: the chains' losses.
        largest: as of `curvature.of_population`.
        prior: as of `prior_share`, where chains at n_beta = 0 were run.
    """
    chains, n_weights = of_chains(found, settings), components.n_parameters(model, component)
    return {
        "component": component.name,
        "n_beta": settings.n_beta,
        "localization": settings.localization,
        "n_weights": n_weights,
        "curvature": largest,
        "llc": chains.llc.value,
        "llc_error": chains.llc.standard_error,
        "controlled_share": 2 * chains.llc.value / n_weights,
        "r_hat": chains.r_hat,
        "effective_share": chains.effective_share,
        "prior_correlation": prior.disattenuated if prior else np.nan,
        "prior_slope": prior.slope if prior else np.nan,
    }


def table(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Rows as a table, as schema.REGIME; a number that is not known is null."""
    return pl.DataFrame(list(rows), schema=schema.REGIME).fill_nan(None)


def sweep(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    wanted: DirectionSettings,
    population: Population,
    probe: Int[np.ndarray, "contexts positions"],
    rest_slopes: Float[np.ndarray, "chains probe_tokens"],
    n_betas: Sequence[float],
    seed: np.random.SeedSequence,
) -> pl.DataFrame:
    """Where the loss begins to decide: the regime of one component at each n_beta, as schema.REGIME.

    Minus n_beta times the direction is the mean displacement at any n_beta, for the mean force on the weights is zero. So the
    linear response at n_beta is the mean, from zero to n_beta, of the first-order part of the susceptibility.

    Args:
        model: at w*.
        component: the one that moves.
        settings: of the chains; their n_beta is not used.
        wanted: the reliability and the budget at each n_beta.
        population: a part for each chain.
        probe: contexts whose linear responses are compared.
        rest_slopes: slopes of the probe's losses along each chain's gradient at w* / localization.
        n_betas: to be tried; zero, against which all are compared, is run in any case.
        seed: of the noise, the same at each n_beta.

    Raises:
        ChainDivergedError, UnstableStepError, BatchTooLargeError: see chains.py.
    """

    def at(n_beta: float) -> tuple[SamplingSettings, Rise]:
        own = dataclasses.replace(settings, n_beta=float(n_beta))
        risen = directions.rise(model, component, own, wanted, population, probe, rest_slopes, seed, largest=largest)
        return own, risen

    largest = curvature.of_population(model, component, population)
    _, at_zero = at(0.0)
    rows = []
    for own, found in map(at, n_betas):
        prior = prior_share(rest_slopes + at_zero.slopes, rest_slopes + found.slopes)
        rows.append(row(model, component, own, found, largest=largest, prior=prior))
    return table(rows)


def rescaled(model: Decoder, layer: int, head: int, factor: float) -> Decoder:
    """The same function in other weights: values of one head `factor` times as large, its output matrix divided by it.

    Raises:
        ValueError: no such head, or a factor that is not positive and finite.
    """
    component = Component("head", layer, head)
    shapes = {name: weight.shape for name, weight in components.weights(model, component).items()}
    by_weight = components.unflatten(_factors(model, component, factor)[None], shapes)
    named = decoder_weights.named_weights(model)
    fields = {"query_key_value": "query_key_value", "query_key_value_bias": "query_key_value_bias", "output": "dense"}
    changed = {f"{layer}.{fields[name]}": named[f"{layer}.{fields[name]}"].clone() for name in shapes}
    moved = decoder_weights.with_weights(model, named | changed)
    for name, weight in components.weights(moved, component).items():  # views of the copies
        weight.mul_(by_weight[name][0].to(weight.dtype))
    return moved


def rescaled_gradient(
    model: Decoder, component: Component, gradient: Float[Tensor, "chains parameters"], factor: float
) -> Float[Tensor, "chains parameters"]:
    """Gradient by a head's weights after `rescaled`, from that before: a weight twice as large has half the gradient."""
    return gradient / _factors(model, component, factor)


def rescaling(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    wanted: DirectionSettings,
    population: Population,
    probe: Int[np.ndarray, "contexts positions"],
    rest: Float[Tensor, "chains parameters"],
    before: Rise,
    seed: np.random.SeedSequence,
    *,
    factor: float,
) -> Agreement:
    """How a head's linear responses after `rescaled` follow those before: 1 and 1 were the susceptibility invariant.

    Args:
        model: at w*.
        component: a head.
        settings: of the chains.
        wanted: the reliability and the budget.
        population: a part for each chain, that `before` is by.
        probe: contexts whose linear responses are compared.
        rest: gradient at w* of each chain's documents by the head's weights.
        before: of the chains of the model as it is.
        seed: of the noise.
        factor: of the values.

    Raises:
        ValueError: the component is no head.
        ChainDivergedError, UnstableStepError, BatchTooLargeError: see chains.py.
    """
    moved = rescaled(model, component.layer, component.head, factor)
    of_rest = [
        directions.probe_slopes(part, probe, {component: gradient / settings.localization})[0]
        for part, gradient in ((model, rest), (moved, rescaled_gradient(model, component, rest, factor)))
    ]
    after = directions.rise(moved, component, settings, wanted, population, probe, of_rest[1], seed)
    first, second = (control.halves(-(own + rise.slopes)) for own, rise in zip(of_rest, (before, after)))
    return control.agreement(first, second)


def _factors(model: Decoder, component: Component, factor: float) -> Float[Tensor, " parameters"]:
    """What each weight of a head is multiplied with, in the order of `components.weights`."""
    if component.kind != "head" or model.description.n_queries > 1:
        raise ValueError(f"only a head with a value of its own can be rescaled, got {component.name}; choose another")
    if not (factor > 0 and np.isfinite(factor)):
        raise ValueError(f"factor must be positive and finite, got {factor:g}")
    ones = {name: torch.ones_like(weight) for name, weight in components.weights(model, component).items()}
    for name, values in ones.items():
        if name == "output":
            values /= factor
        else:  # rows of query, key, value, one block after another
            values[2 * model.head_size :] *= factor
    return components.flatten(ones)
