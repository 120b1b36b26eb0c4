"""How large a step may be: curvature at w* by Lanczos iteration, and what it means for each sampler.

A step is never set by hand alone: where a component is stiffer than the step allows, the step is divided.
"""

import dataclasses
import math

import numpy as np
import torch

from susc_pipeline.model import components, derivatives, perturbation
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.model.perturbation import ComponentInputs
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.sampling.samplers import SAMPLERS

N_PRODUCTS = 6
MAX_CONTEXTS = 4
MAX_INFLATION = 1.25  # of the variance along the stiffest direction; every other direction is closer
MAX_SPLIT = 64
LEAST_LENGTH = 1e-4  # of the largest entry: below it what is left of a product is rounding
DIFFERENCE = 1e-2  # length of the displacement; the loss is smooth on it, float32 gradients still tell it


class UnstableStepError(ValueError):
    """The step size is so far above what the curvature allows that dividing it would be no remedy."""


def largest_curvature(model: Decoder, component: Component, contexts: ComponentInputs) -> float:
    """Largest Hessian eigenvalue of the mean loss at w*, in nats per squared weight, by Lanczos iteration on gradients.

    Few products with the Hessian, by differences of gradients on a few of the contexts, find it from below: for sgld and
    exponential a step above the limit that it sets is certainly too large. For RMSprop the limit is that of its smallest
    preconditioner, and so on the safe side. Lanczos (1950) takes the products that a power iteration takes, comes closer
    by as many, and is not led astray by a negative eigenvalue of larger magnitude, which sets no limit to a step.
    """
    contexts = contexts.take(slice(0, MAX_CONTEXTS))
    zero = torch.zeros(1, components.n_parameters(model, component), device=model.device)
    at_rest = derivatives.gradients(model, component, contexts, zero)[0]
    basis = [at_rest / at_rest.norm()]  # the gradient leans to the directions of large curvature
    of_basis = np.zeros((N_PRODUCTS, N_PRODUCTS))
    for number in range(N_PRODUCTS):
        moved = derivatives.gradients(model, component, contexts, DIFFERENCE * basis[number])[0]
        product = (moved - at_rest) / DIFFERENCE
        # All of them, not the last two: rounding would let the first come back.
        for earlier, vector in enumerate(basis):
            of_basis[earlier, number] = of_basis[number, earlier] = float((product * vector).sum())
            product = product - of_basis[earlier, number] * vector
        length = product.norm()
        if length < LEAST_LENGTH * abs(of_basis[: number + 1, : number + 1]).max() or number + 1 == len(at_rest[0]):
            break
        basis.append(product / length)
    return float(np.linalg.eigvalsh(of_basis[: number + 1, : number + 1])[-1])


def of_population(model: Decoder, component: Component, population: Population) -> float:
    """Largest curvature of the component's mean loss at w* on a few contexts of the first chain, see `largest_curvature`."""
    ids = torch.as_tensor(population.parts[0][:MAX_CONTEXTS].astype(np.int64)).to(model.device)
    return largest_curvature(model, component, perturbation.prepare_tokens(model, component, ids))


def max_step_size(curvature: float, settings: SamplingSettings, *, inflation: float = math.inf) -> float:
    """Largest step whose stationary variance along a direction of this curvature is at most `inflation` times too large.

    On a quadratic loss a chain's variance is the posterior's divided by 1 - f; each sampler's file gives its f. At f = 1,
    infinite inflation, the drift no longer contracts.
    """
    force = settings.n_beta * max(curvature, 0.0)
    return SAMPLERS[settings.sampler].largest_step(force=force, localization=settings.localization, inflation=inflation)


def split_steps(curvature: float, component: Component, settings: SamplingSettings) -> SamplingSettings:
    """The settings with each step divided into as many equal ones as the component's curvature asks for.

    Raises:
        UnstableStepError: into more than MAX_SPLIT; names the component, the value, the limit and the remedy.
    """
    limit = max_step_size(curvature, settings, inflation=MAX_INFLATION)
    n_parts = max(1, math.ceil(settings.step_size / limit))
    if n_parts > MAX_SPLIT:
        raise UnstableStepError(
            f"sampling.step_size must be at most {MAX_SPLIT * limit:.3g} for {component.name} ({settings.sampler}, n_beta "
            f"{settings.n_beta:g}, localization {settings.localization:g}, largest curvature {curvature:.3g}: {MAX_SPLIT} "
            f"times the step of {limit:.3g} that follows the curvature), got {settings.step_size:g}; lower it or "
            f"sampling.n_beta, or raise sampling.localization"
        )
    return dataclasses.replace(
        settings,
        step_size=settings.step_size / n_parts,
        n_burn_in=settings.n_burn_in * n_parts,
        n_steps_between_draws=settings.n_steps_between_draws * n_parts,
    )
