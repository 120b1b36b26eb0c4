"""A sampling task: all that it takes to sample any component of a shard, wherever that is done. Who does it is not decided here.

Components are independent: each has its own seed, whoever samples it and in whatever order.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from susc_pipeline import seeds
from susc_pipeline.model import decoder_weights, pretrained
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.sampling import token_draws
from susc_pipeline.sampling.loss_traces import LossTraces
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings


class Directed(NamedTuple):
    """What the response directions of a component say of its chains."""

    localization: float
    curvature: float
    """The component's largest at w*, which says how long a step may be."""
    direction: Float[np.ndarray, "chains parameters"] | None
    """Of each chain, if the estimator needs it."""


class SamplingTask(NamedTuple):
    """What is shared by the components of a shard. Residual streams are not: they are larger than what they come from."""

    model: Decoder
    """At w*, wherever it lies now."""
    device: str
    """Where chains run, such as `auto`: that of who opens the task."""
    settings: SamplingSettings
    """Of the chains; a component's localization may be its own."""
    shard: Int[np.ndarray, "contexts positions"]
    population: Population
    """Contexts of the draws."""
    own_slopes: bool
    """Whether the estimator needs slopes of mirrored pairs of chains."""
    slopes: bool
    """Whether it needs slopes along response directions by themselves."""
    responses: bool
    """Whether it needs slopes and curvatures along scores, measured together."""
    seed: int
    names: tuple[str, ...]
    """What the chains are for, such as ("sgld_samples", "shard-00003"): with the component's name, their seed."""


def sampler(task: SamplingTask) -> Callable[[Component, Directed | None], LossTraces]:
    """A function of a component, and of what its directions say, once the model lies on the device."""
    model = decoder_weights.to(task.model, pretrained.torch_device(task.device))

    def sample(component: Component, directed: Directed | None) -> LossTraces:
        settings, direction, largest = task.settings, None, None
        if directed is not None:
            settings = dataclasses.replace(settings, localization=directed.localization)
            direction, largest = directed.direction, directed.curvature
        return token_draws.sample(
            model,
            component,
            settings,
            task.shard,
            task.population,
            seeds.sequence(task.seed, *task.names, component.name),
            direction=None if direction is None else torch.as_tensor(direction).to(model.device),
            own_slopes=task.own_slopes and component.kind != "all_weights",
            slopes=task.slopes,
            responses=task.responses and component.kind != "all_weights",
            largest=largest,
        )

    return sample
