"""Stochastic gradient Langevin dynamics (Welling and Teh 2011), localized (Lau et al. 2023)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from susc_pipeline.sampling.samplers.state import Sampler, State


def init(noise: Float[Tensor, "chains parameters"], *, localization: float) -> State:
    """All chains at w*."""
    del localization
    return State(torch.zeros_like(noise), noise[:, :0], 0)


def step(
    state: State, gradient: Tensor, noise: Tensor, *, step_size: float, n_beta: float, localization: float
) -> State:
    """W <- w - step_size/2 [n_beta grad L(w) + localization (w - w*)] + sqrt(step_size) noise."""
    drift = n_beta * gradient + localization * state.delta
    delta = state.delta - step_size / 2 * drift + math.sqrt(step_size) * noise
    return State(delta, state.second_moment, state.n_steps + 1)


def largest_step(*, force: float, localization: float, inflation: float) -> float:
    """A variance is too large by 1 / (1 - f), f = step_size (force + localization) / 4.

    All the prior's directions count, so the step is bounded even where the force is zero.
    """
    return (1 - 1 / inflation) * 4 / (force + localization)


SAMPLERS = {"sgld": Sampler(init, step, largest_step)}
