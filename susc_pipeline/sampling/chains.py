"""Chains restricted to one component, run as one batch. What is measured at their draws is in token_draws.py.

All other weights stay at w*, so nothing else is touched. Every chain has its own noise and its own population contexts,
fresh at every step: one gradient both drives the chain and says how the population loss changes at its place. Where an
estimator asks for it, each chain has a mirror image with noise of opposite sign and the same contexts: half the
difference of a pair's gradients is odd in the perturbation, half the sum is even, and neither holds the other's noise.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from susc_pipeline import seeds
from susc_pipeline.model import derivatives
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.model.perturbation import ComponentInputs
from susc_pipeline.sampling import curvature, memory
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.sampling.samplers import SAMPLERS, State

MAX_LOSS_IN_UNIFORM_LOSSES = 3.0


class ChainDivergedError(ValueError):
    """A chain left the neighbourhood of w*: its losses say nothing about the posterior."""


class Step(NamedTuple):
    """Where all chains are before a step, with loss and gradient on the step's own contexts."""

    number: int
    """Steps taken before."""
    delta: Float[Tensor, "chains parameters"]
    gradient: Float[Tensor, "chains parameters"]
    loss: Float[Tensor, " chains"]


def run(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    start: State,
    batches: Iterable[ComponentInputs],
    noise: Iterable[Float[Tensor, "chains parameters"]],
) -> Iterator[Step]:
    """The chains, step by step, until batches or noise end.

    Args:
        model: at w*.
        component: the one that moves.
        settings: of the sampler.
        start: state before the first step.
        batches: each step's contexts, of shape (chains, contexts, ...).
        noise: each step's standard normal noise.

    Raises:
        ChainDivergedError: a loss is not finite, or far above that of a uniform guess; names component, chain, step.
    """
    state = start
    for number, (batch, push) in enumerate(zip(batches, noise)):
        gradient, loss = derivatives.gradients(model, component, batch, state.delta)
        check_losses(loss, component, number, model, settings)
        yield Step(number, state.delta, gradient, loss)
        state = SAMPLERS[settings.sampler].step(
            state,
            gradient,
            push,
            step_size=settings.step_size,
            n_beta=settings.n_beta,
            localization=settings.localization,
        )


def start(settings: SamplingSettings, noise: Float[Tensor, "chains parameters"]) -> State:
    """The sampler's first state."""
    return SAMPLERS[settings.sampler].init(noise, localization=settings.localization)


def noise(
    seed: np.random.SeedSequence, n_weights: int, *, n_chains: int, mirrored: bool, device: torch.device
) -> Iterator[Float[Tensor, "chains parameters"]]:
    """Standard normal noise of one step after another, each chain's from a generator of its own, mirror images last.

    It is drawn where it is needed: a large embedding's would take longer to send than to draw.
    """
    generators = [seeds.generator(seeds.child(seed, number), device) for number in range(n_chains)]
    while True:
        drawn = torch.stack([torch.randn(n_weights, generator=g, device=device) for g in generators])
        yield torch.cat([drawn, -drawn]) if mirrored else drawn


def prepared(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    population: Population,
    *,
    largest: float | None = None,
) -> SamplingSettings:
    """The settings with steps as short as the component's curvature asks for, once they are known to fit in memory.

    Args:
        model: at w*.
        component: the one that moves.
        settings: of the chains.
        population: a part for each chain.
        largest: the component's curvature, see `curvature.of_population`; it is measured where it is not given.

    Raises:
        BatchTooLargeError: a step or an evaluation would not fit in memory.
        UnstableStepError: the step size is far above what the curvature allows; a little above, steps are divided.
    """
    memory.check(model, component, settings, population.parts[0].shape[1])
    stiffest = curvature.of_population(model, component, population) if largest is None else largest
    return curvature.split_steps(stiffest, component, settings)


def is_draw(number: int, settings: SamplingSettings) -> bool:
    """Whether chains are measured where they are after so many steps."""
    since_burn_in = number - settings.n_burn_in
    return since_burn_in > 0 and since_burn_in % settings.n_steps_between_draws == 0


def doubled(inputs: ComponentInputs) -> ComponentInputs:
    """The inputs of chains and of their mirror images."""
    return inputs.each(lambda tensor: torch.cat([tensor, tensor]))


def check_losses(
    loss: Float[Tensor, " chains"], component: Component, step: int, model: Decoder, settings: SamplingSettings
) -> None:
    """Refuse losses that no chain near w* has.

    Raises:
        ChainDivergedError: one is not finite, or far above that of a uniform guess; names component, chain, step.
    """
    limit = MAX_LOSS_IN_UNIFORM_LOSSES * np.log(model.vocabulary_size)
    bad = ~(loss < limit)  # written so that nan counts as bad
    if bad.any():
        chain = int(bad.nonzero()[0]) % settings.n_chains  # a mirror image has its chain's number
        raise ChainDivergedError(
            f"chain {chain} of {component.name} diverged at step {step}: mean loss {float(loss[chain]):.4g}, where a "
            f"uniform guess has {np.log(model.vocabulary_size):.4g}; lower sampling.step_size ({settings.step_size:g}) "
            f"or sampling.n_beta ({settings.n_beta:g}), or raise sampling.localization ({settings.localization:g})"
        )
