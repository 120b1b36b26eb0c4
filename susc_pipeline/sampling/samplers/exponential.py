"""Exponential Euler: the Gaussian prior is solved exactly, the loss gradient is a force held over the step."""

import math

from jaxtyping import Float
from torch import Tensor

from susc_pipeline.sampling.samplers.state import Sampler, State


def init(noise: Float[Tensor, "chains parameters"], *, localization: float) -> State:
    """All chains at draws of the Gaussian prior: with n_beta = 0 no burn-in is needed."""
    return State(noise / math.sqrt(localization), noise[:, :0], 0)


def step(
    state: State, gradient: Tensor, noise: Tensor, *, step_size: float, n_beta: float, localization: float
) -> State:
    """W <- w* + a (w - w*) - (1 - a)(n_beta/localization) grad L(w) + sqrt((1 - a^2)/localization) noise, a = exp(-step_size).

    With n_beta = 0 it samples the prior exactly at any step size. It is stable while
    (1 - a)(n_beta/localization) lambda < 1 + a for every Hessian eigenvalue lambda of the component.
    """
    kept = math.exp(-step_size)
    drift = (1 - kept) * (n_beta / localization) * gradient
    spread = math.sqrt((1 - kept**2) / localization)
    return State(kept * state.delta - drift + spread * noise, state.second_moment, state.n_steps + 1)


def largest_step(*, force: float, localization: float, inflation: float) -> float:
    """A variance is too large by 1 / (1 - f), f = force/localization tanh(step_size / 2); infinite where f cannot be reached."""
    f, ratio = 1 - 1 / inflation, force / localization
    return math.inf if ratio <= f else 2 * math.atanh(f / ratio)


SAMPLERS = {"exponential": Sampler(init, step, largest_step)}
