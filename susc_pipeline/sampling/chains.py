"""Chains restricted to one component, run as one batch, and the losses that they leave behind.

All other weights stay at w*, so nothing else is touched. Every chain has its own minibatches and noise. Antithetic
pairs of chains (noise of opposite sign) were tried and dropped: the covariance that is wanted is mostly between parts
that are odd in the perturbation, which a pair repeats, so the pair is worth no more than one chain.

A chain is run twice from one seed. The first run finds the direction in which the observable changes most, v = mean
gradient of the observable over the chain's draws / localization. The second measures at each draw the losses and
their slopes along v: what the low-variance estimators of susceptibility/estimators.py need. Running twice costs steps,
which are cheap beside evaluation, and saves keeping every draw's weights.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from susc_pipeline.config import SamplingSettings
from susc_pipeline.model import components, gpt_neox, perturbation
from susc_pipeline.model.components import Component
from susc_pipeline.model.gpt_neox import GPTNeoX
from susc_pipeline.model.perturbation import ComponentInputs
from susc_pipeline.sampling import loss_traces, memory, samplers, stability
from susc_pipeline.sampling.loss_traces import LossTraces

MAX_LOSS_IN_UNIFORM_LOSSES = 3.0
SLOPE_STEP = 0.1  # standard deviations of the prior: small beside the posterior, large beside float32 rounding


class ChainDivergedError(ValueError):
    """A chain left the neighbourhood of w*: its losses say nothing about the posterior."""


class SamplingContexts(NamedTuple):
    """The contexts of a run and their residual streams at w*, shared by every component."""

    tokens: Int[Tensor, "contexts positions"]
    """Contexts of the shard, whose token losses are recorded, then those of the observable."""
    stream: Float[Tensor, "depths contexts positions hidden"]
    n_observable: int
    """How many of the last contexts make the observable."""
    minibatch_tokens: Int[Tensor, "pool positions"]
    minibatch_stream: Float[Tensor, "depths pool positions hidden"]


class _Measurement(NamedTuple):
    token_losses: Float[Tensor, "chains tokens"]
    mean_loss: Float[Tensor, " chains"]


def sampling_contexts(
    model: GPTNeoX,
    *,
    shard: Int[np.ndarray, "contexts positions"],
    observable: Int[np.ndarray, "observable_contexts positions"],
    minibatch: Int[np.ndarray, "pool positions"],
    disjoint: bool = True,
) -> SamplingContexts:
    """The contexts of a run with their residual streams, computed once for all components.

    Raises:
        ValueError: a context of the shard is in the observable set too, and the two are to be disjoint.
    """
    if disjoint:
        check_disjoint(shard, observable)
    tokens = torch.as_tensor(np.concatenate([shard, observable])).to(model.device)
    pool = torch.as_tensor(minibatch).to(model.device)
    streams = (gpt_neox.residual_stream(model, tokens), gpt_neox.residual_stream(model, pool))
    return SamplingContexts(tokens, streams[0], len(observable), pool, streams[1])


def check_disjoint(
    shard: Int[np.ndarray, "contexts positions"], observable: Int[np.ndarray, "observable_contexts positions"]
) -> None:
    """Refuse measured contexts that the observable is made of: their own losses would be in the mean they are held against."""
    shared = {row.tobytes() for row in shard.astype(np.int64)} & {row.tobytes() for row in observable.astype(np.int64)}
    if shared:
        raise ValueError(
            f"the observable set must hold no context of the shard, but {len(shared)} of its {len(observable)} are in "
            f"both; choose other contexts for it, or say disjoint=False"
        )


def observable_inputs(model: GPTNeoX, component: Component, contexts: SamplingContexts) -> ComponentInputs:
    """What a component's losses on the observable set need."""
    return _of_observable(perturbation.prepare(model, component, contexts.tokens, contexts.stream), contexts)


def _of_observable(measured: ComponentInputs, contexts: SamplingContexts) -> ComponentInputs:
    return measured.take(slice(len(contexts.tokens) - contexts.n_observable, None))


def sample(
    model: GPTNeoX,
    component: Component,
    settings: SamplingSettings,
    contexts: SamplingContexts,
    seed: np.random.SeedSequence,
) -> LossTraces:
    """Losses under the draws of all chains of one component.

    Raises:
        BatchTooLargeError: a minibatch or an evaluation would not fit in memory.
        UnstableStepError: the step size is far above what the component's curvature allows; a little above, steps are divided.
        ChainDivergedError: a loss is not finite, or far above that of a uniform guess; names component, chain, step.
    """
    memory.check(model, component, settings, contexts.tokens.shape[1])
    pool = perturbation.prepare(model, component, contexts.minibatch_tokens, contexts.minibatch_stream)
    measured = perturbation.prepare(model, component, contexts.tokens, contexts.stream)
    zero = torch.zeros(1, components.n_parameters(model, component), device=model.device)
    init = _measure(model, component, measured, zero, contexts.n_observable, settings)
    observable = _of_observable(measured, contexts)
    settings = stability.split_steps(stability.largest_curvature(model, component, observable), component, settings)
    sizes = {"n_pool": len(pool.token_ids), "n_weights": zero.shape[1], "device": model.device}

    def replay() -> Iterator[samplers.State]:
        return draws(model, component, settings, pool, random_steps(settings, seed, **sizes))

    direction = None
    if settings.slopes:
        direction = _observable_direction(model, component, settings, observable, replay())
    rows = []
    for number, state in enumerate(replay()):
        here = _measure(model, component, measured, state.delta, contexts.n_observable, settings)
        for losses in (here.mean_loss, here.token_losses.mean(dim=1)):  # a mean is nan where any token's loss is
            _check_losses(losses, component, state.n_steps, model, settings)
        columns = (torch.full_like(here.mean_loss, state.n_steps), here.mean_loss, here.token_losses)
        if direction is not None:
            # The sign alternates from draw to draw, so that curvature along v cancels in the mean over draws.
            length = (-1) ** number * SLOPE_STEP / (direction.norm(dim=1, keepdim=True) * settings.localization**0.5)
            moved = state.delta + length * direction
            there = _measure(model, component, measured, moved, contexts.n_observable, settings)
            mean_slope = (there.mean_loss - here.mean_loss) / length[:, 0]
            pull = settings.localization * (state.delta * direction).sum(dim=1)
            token_slopes = (there.token_losses - here.token_losses) / length
            columns += (pull + settings.n_beta * mean_slope, mean_slope, token_slopes)
        rows.append([column.cpu().numpy() for column in columns])
    return loss_traces.of_measurements(rows, float(init.mean_loss[0]))


def _observable_direction(
    model: GPTNeoX,
    component: Component,
    settings: SamplingSettings,
    observable: ComponentInputs,
    states: Iterable[samplers.State],
) -> Float[Tensor, "chains parameters"]:
    """Of each chain by itself, so that chains stay independent: its mean observable gradient over localization."""
    total = torch.zeros(settings.n_chains, components.n_parameters(model, component), device=model.device)
    for state in states:
        total += perturbation.gradients(model, component, observable, state.delta)[0]
    return total / (settings.n_draws * settings.localization)


def draws(
    model: GPTNeoX,
    component: Component,
    settings: SamplingSettings,
    pool: ComponentInputs,
    randomness: Iterable[tuple[Int[Tensor, "chains batch"], Float[Tensor, "chains parameters"]]],
) -> Iterator[samplers.State]:
    """The chains' state at each draw: after the burn-in, then every `n_steps_between_draws` steps.

    Args:
        model: at w*.
        component: the one that moves.
        settings: of the sampler; they decide how many steps are taken.
        pool: the contexts that minibatches are drawn from.
        randomness: for each step the rows of the pool and the standard normal noise, such as `random_steps` gives.
    """
    n_weights = components.n_parameters(model, component)
    state = samplers.init(settings.n_chains, n_weights, sampler=settings.sampler, device=model.device)
    n_steps = settings.n_burn_in + settings.n_draws * settings.n_steps_between_draws
    for number, (rows, noise) in enumerate(itertools.islice(randomness, n_steps), start=1):
        batch = pool.take(rows.to(model.device))
        gradient, loss = perturbation.gradients(model, component, batch, state.delta)
        _check_losses(loss, component, number, model, settings)
        state = samplers.step(
            state,
            gradient,
            noise.to(model.device),
            sampler=settings.sampler,
            step_size=settings.step_size,
            n_beta=settings.n_beta,
            localization=settings.localization,
        )
        since_burn_in = number - settings.n_burn_in
        if since_burn_in > 0 and since_burn_in % settings.n_steps_between_draws == 0:
            yield state


def random_steps(
    settings: SamplingSettings, seed: np.random.SeedSequence, *, n_pool: int, n_weights: int, device: torch.device
) -> Iterator[tuple[Int[Tensor, "chains batch"], Float[Tensor, "chains parameters"]]]:
    """Minibatch rows and noise of one step after another, each chain's from generators of its own.

    Noise is drawn where it is needed: a large embedding's would take longer to send than to draw.
    """
    # What `seed.spawn` gives the first time; spawn itself remembers, and a replayed chain would get other noise.
    children = (np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, n)) for n in range(settings.n_chains))
    states = [int(child.generate_state(1, np.uint64)[0] >> 1) for child in children]
    of_rows = [torch.Generator().manual_seed(state) for state in states]
    on_device = device.type != "cpu"
    of_noise = [torch.Generator(device).manual_seed(state) for state in states] if on_device else of_rows
    while True:
        rows = torch.stack([torch.randint(n_pool, (settings.batch_size,), generator=g) for g in of_rows])
        yield rows, torch.stack([torch.randn(n_weights, generator=g, device=device) for g in of_noise])


@torch.no_grad()
def _measure(
    model: GPTNeoX,
    component: Component,
    inputs: ComponentInputs,
    delta: Float[Tensor, "chains parameters"],
    n_observable: int,
    settings: SamplingSettings,
) -> _Measurement:
    """Token losses of the shard and mean loss of the observable set, under each chain's weights."""
    n_contexts = len(inputs.token_ids)
    at_once = max(1, settings.evaluation_batch_size // len(delta))
    pieces = [
        perturbation.losses(model, component, inputs.take(slice(start, start + at_once)), delta)
        for start in range(0, n_contexts, at_once)
    ]
    losses = torch.cat(pieces, dim=1)
    shard, observable = losses.split([n_contexts - n_observable, n_observable], dim=1)
    return _Measurement(shard.flatten(1), observable.double().mean(dim=(1, 2)))


def _check_losses(
    loss: Float[Tensor, " chains"], component: Component, step: int, model: GPTNeoX, settings: SamplingSettings
) -> None:
    limit = MAX_LOSS_IN_UNIFORM_LOSSES * np.log(model.vocabulary_size)
    bad = ~(loss < limit)  # written so that nan counts as bad
    if bad.any():
        chain = int(bad.nonzero()[0])
        raise ChainDivergedError(
            f"chain {chain} of {component.name} diverged at step {step}: mean loss {float(loss[chain]):.4g}, where a "
            f"uniform guess has {np.log(model.vocabulary_size):.4g}; lower sampling.step_size ({settings.step_size:g}) "
            f"or sampling.n_beta ({settings.n_beta:g}), or raise sampling.localization ({settings.localization:g})"
        )
