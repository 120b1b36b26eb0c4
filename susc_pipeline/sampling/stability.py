"""How large a step may be: curvature at w* by power iteration, and the stability limit of each sampler."""

import math

import torch

from susc_pipeline.config import SamplingSettings
from susc_pipeline.model import components, perturbation
from susc_pipeline.model.components import Component
from susc_pipeline.model.gpt_neox import GPTNeoX
from susc_pipeline.model.perturbation import ComponentInputs
from susc_pipeline.sampling import samplers

N_ITERATIONS = 6
MAX_CONTEXTS = 4
DIFFERENCE = 1e-2  # length of the displacement; the loss is smooth on it, float32 gradients still tell it


class UnstableStepError(ValueError):
    """The step size is one at which the sampler's drift overshoots without bound."""


def largest_curvature(model: GPTNeoX, component: Component, contexts: ComponentInputs) -> float:
    """Largest Hessian eigenvalue of the mean loss at w*, in nats per squared weight, by power iteration on gradients.

    Few steps on a few of the contexts find it from below: for sgld and exponential a step above the limit that it sets
    is certainly too large. For RMSprop the limit is that of its smallest preconditioner, and so on the safe side.
    Where the eigenvalue of largest magnitude is negative, which sets no limit to a step, the iteration is repeated on the
    Hessian shifted by that magnitude, whose largest eigenvalue is the one that is wanted.
    """
    contexts = contexts.take(slice(0, MAX_CONTEXTS))
    zero = torch.zeros(1, components.n_parameters(model, component), device=model.device)
    at_rest = perturbation.gradients(model, component, contexts, zero)[0]

    def iterate(shift: float, n_iterations: int) -> float:
        direction = at_rest / at_rest.norm()  # the gradient leans to the directions of large curvature
        value = 0.0
        for _ in range(n_iterations):
            moved = perturbation.gradients(model, component, contexts, DIFFERENCE * direction)[0]
            product = (moved - at_rest) / DIFFERENCE + shift * direction
            value = float((product * direction).sum())
            direction = product / product.norm()
        return value - shift

    dominant = iterate(0.0, N_ITERATIONS)
    return dominant if dominant >= 0 else iterate(-dominant, 3 * N_ITERATIONS)  # the shift slows it down


def max_step_size(curvature: float, settings: SamplingSettings) -> float:
    """Largest step at which the sampler's drift contracts along a direction of this curvature.

    SGLD multiplies a displacement by 1 - step/2 (n_beta curvature + localization), which must exceed -1; RMSprop divides
    the step by at least its stability constant; the exponential integrator multiplies by a - (1 - a) n_beta
    curvature / localization, a = exp(-step).
    """
    force = settings.n_beta * max(curvature, 0.0)
    match settings.sampler:
        case "sgld":
            return 4 / (force + settings.localization)
        case "exponential":
            ratio = force / settings.localization
            return math.inf if ratio <= 1 else math.log((ratio + 1) / (ratio - 1))
        case _:
            return 4 * samplers.STABILITY / (force + settings.localization)


def check(curvature: float, component: Component, settings: SamplingSettings) -> None:
    """Refuse a step size above the limit that the curvature sets.

    Raises:
        UnstableStepError: names the component, the value, the limit and the remedy.
    """
    limit = max_step_size(curvature, settings)
    if settings.step_size > limit:
        raise UnstableStepError(
            f"sampling.step_size must be at most {limit:.3g} for {component.name} ({settings.sampler}, n_beta "
            f"{settings.n_beta:g}, localization {settings.localization:g}, largest curvature {curvature:.3g}), got "
            f"{settings.step_size:g}; lower it or sampling.n_beta, or raise sampling.localization"
        )
