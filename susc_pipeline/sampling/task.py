"""A sampling task: all that it takes to sample any component of a shard, wherever that is done. Who does it is not decided here.

Components are independent: each has its own seed, whoever samples it and in whatever order.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from susc_pipeline import seeds
from susc_pipeline.config import SamplingSettings
from susc_pipeline.model import gpt_neox, pretrained
from susc_pipeline.model.components import Component
from susc_pipeline.model.gpt_neox import GPTNeoX
from susc_pipeline.sampling import chains
from susc_pipeline.sampling.loss_traces import LossTraces
from susc_pipeline.susceptibility import estimators
from susc_pipeline.susceptibility.estimators import ComponentEstimates


class SamplingTask(NamedTuple):
    """What is shared by the components of a shard. Residual streams are not: they are larger than what they come from."""

    model: GPTNeoX
    """At w*, wherever it lies now."""
    device: str
    """Where chains run, such as `auto`: that of who opens the task."""
    settings: SamplingSettings
    shard: Int[np.ndarray, "contexts positions"]
    observable: Int[np.ndarray, "observable_contexts positions"]
    minibatch: Int[np.ndarray, "pool positions"]
    seed: int
    names: tuple[str, ...]
    """What the chains are for, such as ("sgld_samples", "shard-00003"): with the component's name, their seed."""


def sampler(task: SamplingTask) -> Callable[[Component], LossTraces]:
    """A function that samples a component, once the model lies on the device and the residual streams are computed."""
    model = gpt_neox.to(task.model, pretrained.torch_device(task.device))
    # Documents are disjoint already (tokens.py); that two of them hold the same lines is the corpus's own affair.
    contexts = chains.sampling_contexts(
        model, shard=task.shard, observable=task.observable, minibatch=task.minibatch, disjoint=False
    )

    def sample(component: Component) -> LossTraces:
        seed = seeds.sequence(task.seed, *task.names, component.name)
        return chains.sample(model, component, task.settings, contexts, seed)

    return sample


def estimator(task: SamplingTask, kind: str) -> Callable[[Component], ComponentEstimates]:
    """A function that samples a component and keeps of its traces the estimates alone."""
    sample = sampler(task)
    return lambda component: estimators.estimate_component(sample(component), kind=kind)
