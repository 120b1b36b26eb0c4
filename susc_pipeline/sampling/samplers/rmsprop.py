"""Preconditioned SGLD (Li et al. 2016) without its divergence term, in the paper's form and in devinterp's.

As sgld with step_size / (sqrt(v) + 0.1), elementwise, in drift and noise; localization is preconditioned too. v is the
running mean of squared gradients: divided by 1 - 0.99^t in the paper's form, as it is in devinterp's.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from susc_pipeline.sampling.samplers.state import Sampler, State

DECAY = 0.99
STABILITY = 0.1


def init_paper(noise: Float[Tensor, "chains parameters"], *, localization: float) -> State:
    """All chains at w*, the second moment at one."""
    del localization
    return State(torch.zeros_like(noise), torch.ones_like(noise), 0)


def init_devinterp(noise: Float[Tensor, "chains parameters"], *, localization: float) -> State:
    """All chains at w*, the second moment at zero."""
    del localization
    return State(torch.zeros_like(noise), torch.zeros_like(noise), 0)


def step_paper(state: State, gradient: Tensor, noise: Tensor, **force: float) -> State:
    """The step with the second moment corrected for its bias."""
    second_moment = DECAY * state.second_moment + (1 - DECAY) * gradient**2
    corrected = second_moment / (1 - DECAY ** (state.n_steps + 1))
    return _step(state, gradient, noise, second_moment, corrected, **force)


def step_devinterp(state: State, gradient: Tensor, noise: Tensor, **force: float) -> State:
    """The step with the second moment as it is."""
    second_moment = DECAY * state.second_moment + (1 - DECAY) * gradient**2
    return _step(state, gradient, noise, second_moment, second_moment, **force)


def _step(
    state: State,
    gradient: Tensor,
    noise: Tensor,
    second_moment: Tensor,
    scale: Tensor,
    *,
    step_size: float,
    n_beta: float,
    localization: float,
) -> State:
    local_step = step_size / (scale.sqrt() + STABILITY)
    drift = n_beta * gradient + localization * state.delta
    delta = state.delta - local_step / 2 * drift + local_step.sqrt() * noise
    return State(delta, second_moment, state.n_steps + 1)


def largest_step(*, force: float, localization: float, inflation: float) -> float:
    """The bound of SGLD for the smallest preconditioner, hence on the safe side."""
    return (1 - 1 / inflation) * 4 * STABILITY / (force + localization)


SAMPLERS = {
    "rmsprop_sgld_paper": Sampler(init_paper, step_paper, largest_step),
    "rmsprop_sgld_devinterp": Sampler(init_devinterp, step_devinterp, largest_step),
}
