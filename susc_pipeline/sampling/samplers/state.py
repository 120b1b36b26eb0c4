"""Where the chains of one component are, and what a sampler is: three functions. The samplers are the modules beside this one."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class State(NamedTuple):
    """Positions of the chains of one component."""

    delta: Float[Tensor, "chains parameters"]
    """Difference of the weights from w*."""
    second_moment: Float[Tensor, "chains preconditioned"]
    """Running mean of squared loss gradients; no column where the sampler has no preconditioner."""
    n_steps: int
    """Steps taken."""


class Sampler(NamedTuple):
    """One algorithm: where its chains begin, how they move, how large a step may be."""

    init: Callable[..., State]
    """Of standard normal noise (chains, parameters) and `localization`: the first state."""
    step: Callable[..., State]
    """Of state, gradient of the mean loss, standard normal noise, `step_size`, `n_beta`, `localization`: the next state."""
    largest_step: Callable[..., float]
    """Of `force` (n_beta times curvature), `localization`, `inflation`: see curvature.largest_step."""
