"""Langevin samplers of the local posterior: one step each, from a state to the next.

The target is p(w) ~ exp(-n_beta L(w) - localization/2 |w - w*|^2) over the weights of one component; positions are
differences from w*, one row a chain. Where gradients and noise come from is in chains.py.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

DECAY = 0.99
STABILITY = 0.1
SAMPLERS = ("sgld", "rmsprop_sgld_paper", "rmsprop_sgld_devinterp", "exponential")


class State(NamedTuple):
    """Where the chains of one component are."""

    delta: Float[Tensor, "chains parameters"]
    """Difference of the weights from w*."""
    second_moment: Float[Tensor, "chains parameters"]
    """Running mean of squared loss gradients; only the RMSprop samplers use it."""
    n_steps: int
    """Steps taken."""


def init(n_chains: int, n_parameters: int, *, sampler: str, device: torch.device) -> State:
    """All chains at w*; the second moment starts at 1 in the paper's RMSprop form, at 0 in devinterp's."""
    zeros = torch.zeros(n_chains, n_parameters, device=device)
    start = 1.0 if sampler == "rmsprop_sgld_paper" else 0.0
    return State(zeros, torch.full_like(zeros, start) if sampler.startswith("rmsprop") else zeros[:, :0], 0)


def step(
    state: State,
    gradient: Float[Tensor, "chains parameters"],
    noise: Float[Tensor, "chains parameters"],
    *,
    sampler: str,
    step_size: float,
    n_beta: float,
    localization: float,
) -> State:
    """The state after one step of the named sampler.

    Args:
        state: before the step.
        gradient: of the mean minibatch loss, in nats per weight.
        noise: standard normal.
        sampler: one of SAMPLERS.
        step_size: of the sampler.
        n_beta: weight of the mean loss.
        localization: strength of the pull to w*.
    """
    force = {"n_beta": n_beta, "localization": localization}
    match sampler:
        case "sgld":
            return sgld(state, gradient, noise, step_size=step_size, **force)
        case "rmsprop_sgld_paper" | "rmsprop_sgld_devinterp":
            corrected = sampler == "rmsprop_sgld_paper"
            return rmsprop_sgld(state, gradient, noise, step_size=step_size, bias_correction=corrected, **force)
        case "exponential":
            return exponential(state, gradient, noise, step_size=step_size, **force)
    raise ValueError(f"sampler must be one of {SAMPLERS}, got {sampler!r}; correct sampling.sampler")


def sgld(
    state: State, gradient: Tensor, noise: Tensor, *, step_size: float, n_beta: float, localization: float
) -> State:
    """Stochastic gradient Langevin dynamics (Welling and Teh 2011), localized (Lau et al. 2023).

    w <- w - step_size/2 [n_beta grad L(w) + localization (w - w*)] + sqrt(step_size) noise
    """
    drift = n_beta * gradient + localization * state.delta
    delta = state.delta - step_size / 2 * drift + math.sqrt(step_size) * noise
    return State(delta, state.second_moment, state.n_steps + 1)


def rmsprop_sgld(
    state: State,
    gradient: Tensor,
    noise: Tensor,
    *,
    step_size: float,
    n_beta: float,
    localization: float,
    bias_correction: bool,
) -> State:
    """Preconditioned SGLD (Li et al. 2016) without its divergence term; localization is preconditioned too.

    As sgld with step_size / (sqrt(v) + 0.1), elementwise, in drift and noise; v is the running mean of squared
    gradients, divided by 1 - 0.99^t in the paper's form, as it is in devinterp's.
    """
    second_moment = DECAY * state.second_moment + (1 - DECAY) * gradient**2
    n_steps = state.n_steps + 1
    corrected = second_moment / (1 - DECAY**n_steps) if bias_correction else second_moment
    local_step = step_size / (corrected.sqrt() + STABILITY)
    drift = n_beta * gradient + localization * state.delta
    return State(state.delta - local_step / 2 * drift + local_step.sqrt() * noise, second_moment, n_steps)


def exponential(
    state: State, gradient: Tensor, noise: Tensor, *, step_size: float, n_beta: float, localization: float
) -> State:
    """Exponential Euler: the Gaussian prior is solved exactly, the loss gradient is a force held over the step.

    w <- w* + a (w - w*) - (1 - a)(n_beta/localization) grad L(w) + sqrt((1 - a^2)/localization) noise,
    a = exp(-step_size). With n_beta = 0 it samples the prior exactly at any step size; stable while
    (1 - a)(n_beta/localization) lambda < 1 + a for every Hessian eigenvalue lambda of the component.
    """
    kept = math.exp(-step_size)
    drift = (1 - kept) * (n_beta / localization) * gradient
    spread = math.sqrt((1 - kept**2) / localization)
    return State(kept * state.delta - drift + spread * noise, state.second_moment, state.n_steps + 1)
